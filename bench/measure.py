"""How it is measured: interleaved rounds, quantiles, ratios within a round, peak memory by allocations, and launches.

On a shared machine a disturbance of a second hits everything measured in that second. So each round runs every
competitor once, ratios are taken between the samples of one round, and quantiles come last.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.cases import Loss

Mark = Callable[[], Any]  # notes a moment
Phases = dict[str, tuple[Any, Any]]  # name: (begin, end)
Step = Callable[[Mark], Phases]  # runs once and says when its phases began and ended
Samples = dict[str, list[float]]  # phase: seconds, one number per round

PHASES = ("loss", "forward", "backward", "both")
SAMPLE_SECONDS = 0.01  # shorter steps are repeated within a sample
FEWEST_ROUNDS = 3


class Spread(NamedTuple):
    """The 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist())


class CpuClock:
    mark = staticmethod(time.perf_counter)

    @staticmethod
    def seconds(begin: float, end: float) -> float:
        return end - begin

    @staticmethod
    def settle() -> None:
        """Waits until all marks are known: they are already."""


class CudaClock:
    """Marks are events in the current stream; nothing waits for the device until the sample is complete."""

    @staticmethod
    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def seconds(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return begin.elapsed_time(end) / 1e3

    @staticmethod
    def settle() -> None:
        torch.cuda.synchronize()


def clock(device: torch.device) -> CpuClock | CudaClock:
    """What measures time on a device."""
    return CudaClock() if device.type == "cuda" else CpuClock()


def gradient_step(loss: Loss, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Step:
    """One training step's use of a loss (forward, backward, both) and one evaluation of it without gradients (loss).

    fastmmd computes its gradient in the forward pass, so compare "both"; the phases say where the time is spent.
    """
    inputs = [*sources, *targets]

    def step(mark: Mark) -> Phases:
        start = mark()
        value = loss(sources, targets)
        middle = mark()
        torch.autograd.grad(value, inputs)
        end = mark()
        with torch.no_grad():
            before = mark()
            loss(sources, targets)
            after = mark()
        return {"loss": (before, after), "forward": (start, middle), "backward": (middle, end), "both": (start, end)}

    return step


def graph_step(loss: Loss, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Step:
    """Forward and backward captured once in a CUDA graph, then replayed: without what Python and launches cost."""
    inputs = [*sources, *targets]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is compiled or allocated once must not happen during capture
        for _ in range(3):
            torch.autograd.grad(loss(sources, targets), inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(loss(sources, targets), inputs)

    def step(mark: Mark) -> Phases:
        start = mark()
        graph.replay()
        return {"both": (start, mark())}

    return step


def usable(device: torch.device) -> bool:
    """Whether a device still works. After an illegal access it refuses everything that its process asks for."""
    try:
        torch.zeros((), device=device).item()
    except RuntimeError:
        return False
    return True


@contextmanager
def torch_products(precision: str) -> Iterator[None]:
    """Within it torch's own fp32 products run in TF32, unless `precision` is "ieee". (It has nothing faster for fp32
    operands.)"""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "ieee" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def interleave(steps: Mapping[str, Step], device: torch.device, rounds: int, seconds_each: float) -> dict[str, Samples]:
    """Samples of every step by name. The i-th samples of two steps were taken in the same round; a step that would
    take more than `seconds_each` in all takes part in the first rounds only, at least `FEWEST_ROUNDS`."""
    timer = clock(device)
    plans = {}
    for name, step in steps.items():
        once = _shortest(step, timer)
        repeats = max(1, round(SAMPLE_SECONDS / once))
        plans[name] = repeats, max(FEWEST_ROUNDS, min(rounds, int(seconds_each / (once * repeats))))
    collected: dict[str, Samples] = {name: {} for name in steps}
    order = list(steps)
    for number in range(rounds):
        for name in order:
            repeats, last = plans[name]
            if number < last:
                for phase, seconds in _sample(steps[name], repeats, timer).items():
                    collected[name].setdefault(phase, []).append(seconds)
        order.append(order.pop(0))  # so that no step always follows the same other step
    return collected


def _shortest(step: Step, timer: CpuClock | CudaClock) -> float:
    """Seconds of the shortest of a few steps, after one that warms up: a disturbance must not shorten the samples."""
    _sample(step, 1, timer)
    shortest, spent = float("inf"), 0.0
    while spent < SAMPLE_SECONDS:
        begin = time.perf_counter()
        _sample(step, 1, timer)
        seconds = time.perf_counter() - begin
        shortest, spent = min(shortest, seconds), spent + seconds
    return shortest


def _sample(step: Step, repeats: int, timer: CpuClock | CudaClock) -> dict[str, float]:
    """Mean seconds of each phase over `repeats` steps."""
    runs = [step(timer.mark) for _ in range(repeats)]
    timer.settle()
    return {phase: sum(timer.seconds(*run[phase]) for run in runs) / repeats for phase in runs[0]}


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The spread of above / below, round by round, over the rounds that both took part in."""
    return Spread.of([a / b for a, b in zip(above, below, strict=False)])


def difference(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The spread of above - below, over the same rounds as those of `ratio`."""
    return Spread.of([a - b for a, b in zip(above, below, strict=False)])


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """The most memory that tensors allocated by `action` hold at one time, on top of what existed before.

    Every allocation and release of torch's allocators counts, wherever it happens (operators, backward, compiled code,
    workspaces); scratch memory that a matrix library takes from the system does not.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    events = _trace(action, [ProfilerActivity.CPU], memory=True)
    allocations = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    held = peak = 0
    for event in allocations:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def launches(action: Callable[[], object]) -> int:
    """Kernels, copies and fills that `action` starts on the CUDA device. Time nothing afterwards: the profiler's
    library stays attached to the process and slows launches down."""
    return sum(event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") for event in _device_events(action))


def kernel_times(action: Callable[[], object]) -> list[tuple[str, float]]:
    """Name and seconds of each kernel that `action` starts on the CUDA device; see `launches`."""
    events = _device_events(action)
    return [(event["name"], event["dur"] / 1e6) for event in events if event.get("cat") == "kernel"]


def _device_events(action: Callable[[], object]) -> list[dict[str, Any]]:
    def watched() -> None:
        action()
        torch.cuda.synchronize()

    return _trace(watched, [ProfilerActivity.CPU, ProfilerActivity.CUDA])


def _trace(
    action: Callable[[], object], activities: list[ProfilerActivity], memory: bool = False
) -> list[dict[str, Any]]:
    """The profiler's events. memory: allocations and releases too."""
    with profile(activities=activities, profile_memory=memory) as profiler:
        action()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return json.loads(trace.read_text())["traceEvents"]
