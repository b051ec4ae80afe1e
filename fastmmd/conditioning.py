"""Says so when a bandwidth is far below the size of its data, which fp32 products on an accelerator cannot serve.

How far is known on the device alone (`pooling.condition`), and nothing may wait for it: the number is copied to the
host behind the computation, and a later call looks at it. There is one warning for a kernel in a layer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastmmd.backends import cuda, pooling
from fastmmd.centring import pooled, pooled_around_bulk
from fastmmd.dtypes import compute_dtype
from fastmmd.problem import LayerKernel, Problem

EVERY = 61  # calls: the first one measures, and then one in so many; prime, so that losses in turn all have theirs
WORST_ERROR = 1e-4  # of a kernel, relative; beyond it there is a warning
MAX_PROBLEMS = 256


def watch(
    problem: Problem, sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Tensor | None, backend: str
) -> None:
    """To be called with what `backend` (a name, not "auto") is about to compute. Never waits for a CUDA device, and
    does nothing on a CPU, where backends look for themselves."""
    if not _watched(sources[0].device):
        return
    known = _by_problem.get(id(problem))
    if known is None:
        if len(_by_problem) >= MAX_PROBLEMS:
            _by_problem.clear()
        known = problem, _watch_of(problem.layers, problem.n_source, problem.n_target)
        _by_problem[id(problem)] = known
    if known[1].open:
        known[1].call(problem, sources, targets, bandwidths, backend)


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
    def __init__(self, layers: tuple[LayerKernel, ...]) -> None:
        self.layers = layers
        # Layers to measure. A mean is of the data's size: only a tiny multiplier of it is not.
        most = WORST_ERROR / torch.finfo(torch.float32).eps
        self.open = [i for i, layer in enumerate(layers) if not layer.follows_mean or 1 / layer.scales[0] > most]
        self.calls = 0
        self.copy: HostCopy | None = None
        self.measured: list[int] = []
        self.given, self.epsilon = False, 0.0

    def call(
        self,
        problem: Problem,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        bandwidths: Tensor | None,
        backend: str,
    ) -> None:
        due = self.calls % EVERY == 0
        self.calls += 1
        # In a CUDA graph a measurement would be repeated unseen, and no event may be asked.
        if not (due or self.copy) or _capturing(sources[0].device):
            return
        if self.copy and self.copy.arrived():
            conditions, self.copy = self.copy.values.tolist(), None
            for index, condition in zip(self.measured, conditions, strict=True):
                self._judge(index, condition)
        if due and self.open and not self.copy and not _by_differences(problem, sources, backend):
            self._measure(sources, targets, bandwidths, backend)

    @torch.no_grad()
    def _measure(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Tensor | None, backend: str
    ) -> None:
        dtype = compute_dtype(*sources, *targets)
        centred = pooled if backend == "triton" else pooled_around_bulk
        conditions = []
        for index in self.open:
            layer, norms = self.layers[index], centred(sources[index], targets[index], dtype).square().sum(1)
            base = norms.new_ones(()) if bandwidths is None else bandwidths[index]
            conditions.append(pooling.condition(layer, norms, layer.unit * base))
        self.measured = list(self.open)
        self.given, self.epsilon = bandwidths is not None, torch.finfo(dtype).eps
        self.copy = HostCopy(torch.stack(conditions))

    def _judge(self, index: int, condition: float) -> None:
        layer, error = self.layers[index], condition * self.epsilon
        if not WORST_ERROR < error < math.inf:  # infinity: a bandwidth of 0, which is a limit of its own
            return
        self.open.remove(index)
        if (index, layer) in _said:
            return
        _said.add((index, layer))
        rule = "a median, a tensor or 1" if self.given and layer.unit == 1 else f"{layer.unit:g}"
        rule = "a mean" if layer.follows_mean else rule
        warnings.warn(
            f"fastmmd: layer {index}, bandwidth {rule}: a Gaussian is far below the data's size. Squared norms of the "
            f"centred rows are {condition:.1e} times the width of the sharpest Gaussian (multiplier "
            f"{layer.scales[0]:g}), so its values have a relative error of about {min(error, 1.0):.0e}. Use a "
            "bandwidth and multipliers of the data's size, pass fp64 tensors (.double()), or compute on the "
            "CPU or, if there are few rows, with backend='reference'.",
            UserWarning,
            stacklevel=2,
        )


# By the problem's id, which stays its own while it is kept here: a hash of it takes longer than a call may.
_by_problem: dict[int, tuple[Problem, Watch]] = {}
_said: set[tuple[int, LayerKernel]] = set()


@lru_cache(maxsize=MAX_PROBLEMS)
def _watch_of(layers: tuple[LayerKernel, ...], n_source: int, n_target: int) -> Watch:
    """One for all term weights: a loss whose weights grow is a new problem in every step."""
    return Watch(layers)


def _watched(device: torch.device) -> bool:
    return device.type != "cpu"


def _by_differences(problem: Problem, sources: Sequence[Tensor], backend: str) -> bool:
    return backend == "reference" or (backend == "cuda" and cuda.by_differences(problem, sources))


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
