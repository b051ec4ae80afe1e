"""Says so when a bandwidth is far below the size of its data, which fp32 products on an accelerator cannot serve.

How far is known on the device alone (`gram.condition`), and nothing may wait for it: the number is copied to the
host behind the computation, and a later call looks at it. There is one warning for a kernel in a layer.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import torch
from torch import Tensor

from fastmmd.backends import cuda, gram
from fastmmd.call import Call
from fastmmd.centring import pooled, pooled_around_bulk
from fastmmd.problem import LayerKernel, Problem

EVERY = 61  # calls: the first one measures, and then one in so many; prime, so that losses in turn all have theirs
WORST_ERROR = 1e-4  # of a kernel, relative; beyond it there is a warning
MAX_PROBLEMS = 256


def watch(call: Call, backend: str) -> None:
    """Looks at what `backend` (a name, not "auto") is about to compute. Never waits for a CUDA device, and does nothing
    on a CPU, where backends look for themselves."""
    if not _watched(call.device):
        return
    entry = _by_problem.get(id(call.problem))
    if entry is None:
        if len(_by_problem) >= MAX_PROBLEMS:
            _by_problem.clear()
        entry = call.problem, _watch_of(call.problem.layers, call.problem.n_source, call.problem.n_target)
        _by_problem[id(call.problem)] = entry
    _, watcher = entry
    if watcher.open:
        watcher.look(call, backend)


class HostCopy:
    """A small tensor's values on their way to the host."""

    def __init__(self, values: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        if values.device.type != "cuda":  # waits, in one call of many
            self.values = values.cpu()
            return
        self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self.values.copy_(values, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record(torch.cuda.current_stream(values.device))

    def arrived(self) -> bool:
        return self.event is None or self.event.query()


class Watch:
    """What is known of the layers of one problem. open: indices of the layers that may still need a warning."""

    def __init__(self, layers: tuple[LayerKernel, ...]) -> None:
        self.layers = layers
        # A mean is of the data's size: only a tiny multiplier of it is not.
        most = WORST_ERROR / torch.finfo(torch.float32).eps
        self.open = [i for i, layer in enumerate(layers) if not layer.follows_mean or 1 / layer.multipliers[0] > most]
        self.calls = 0
        self.copy: HostCopy | None = None
        self.measured: list[int] = []
        self.given, self.epsilon = False, 0.0

    def look(self, call: Call, backend: str) -> None:
        due = self.calls % EVERY == 0
        self.calls += 1
        # In a CUDA graph a measurement would be repeated unseen, and no event may be asked.
        if not (due or self.copy) or _capturing(call.device):
            return
        if self.copy and self.copy.arrived():
            conditions, self.copy = self.copy.values.tolist(), None
            for index, condition in zip(self.measured, conditions, strict=True):
                self._judge(index, condition)
        if due and self.open and not self.copy and not _by_differences(call, backend):
            self._measure(call, backend)

    @torch.no_grad()
    def _measure(self, call: Call, backend: str) -> None:
        centred = pooled if backend == "triton" else pooled_around_bulk
        conditions = []
        for index in self.open:
            layer = self.layers[index]
            norms = centred(call.sources[index], call.targets[index], call.dtype).square().sum(1)
            base = norms.new_ones(()) if call.bandwidths is None else call.bandwidths[index]
            conditions.append(gram.condition(layer, norms, layer.bandwidth_scale * base))
        self.measured = list(self.open)
        self.given, self.epsilon = call.bandwidths is not None, torch.finfo(call.dtype).eps
        self.copy = HostCopy(torch.stack(conditions))

    def _judge(self, index: int, condition: float) -> None:
        layer, error = self.layers[index], condition * self.epsilon
        if not WORST_ERROR < error < math.inf:  # infinity: a bandwidth of 0, which is a limit of its own
            return
        self.open.remove(index)
        if (index, layer) in _warned:
            return
        _warned.add((index, layer))
        rule = "a median, a tensor or 1" if self.given and layer.bandwidth_scale == 1 else f"{layer.bandwidth_scale:g}"
        rule = "a mean" if layer.follows_mean else rule
        warnings.warn(
            f"fastmmd: layer {index}, bandwidth {rule}: a Gaussian is far below the data's size. Squared norms of the "
            f"centred rows are {condition:.1e} times the width of the sharpest Gaussian (multiplier "
            f"{layer.multipliers[0]:g}), so its values have a relative error of about {min(error, 1.0):.0e}. Use a "
            "bandwidth and multipliers of the data's size, pass fp64 tensors (.double()), or compute on the "
            "CPU or, if there are few rows, with backend='reference'.",
            UserWarning,
            stacklevel=2,
        )


# By the problem's id, which stays its own while it is kept here: a hash of it takes longer than a call may.
_by_problem: dict[int, tuple[Problem, Watch]] = {}
_warned: set[tuple[int, LayerKernel]] = set()


@lru_cache(maxsize=MAX_PROBLEMS)
def _watch_of(layers: tuple[LayerKernel, ...], n_source: int, n_target: int) -> Watch:
    """One for all term weights: a loss whose weights grow is a new problem in every step."""
    return Watch(layers)


def _watched(device: torch.device) -> bool:
    return device.type != "cpu"


def _by_differences(call: Call, backend: str) -> bool:
    return backend == "reference" or (backend == "cuda" and cuda.by_differences(call))


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
