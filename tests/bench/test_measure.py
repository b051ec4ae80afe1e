"""What is measured: memory, rounds, ratios, launches. No clock decides on any test."""

import pytest
import torch

from bench import measure, yardsticks
from bench.cases import CASES
from bench.measure import Spread

CPU = torch.device("cpu")
MIB = 2**20


def test_peak_sees_allocations_and_releases():
    def action():
        first = torch.empty(4 * MIB, dtype=torch.uint8)
        del first
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        third = torch.empty(3 * MIB, dtype=torch.uint8)
        return second, third

    assert measure.peak_bytes(action, CPU) == pytest.approx(5 * MIB, abs=1024)


def test_peak_sees_temporaries_inside_operators_and_backward():
    x = torch.ones(MIB // 4, requires_grad=True)  # 1 MiB, and not counted: it exists before

    def action():
        return torch.autograd.grad(x.exp().sum(), x)  # exp is saved; its gradient is made beside it

    assert measure.peak_bytes(action, CPU) == pytest.approx(2 * MIB, rel=0.01)


def test_peak_of_nothing_is_zero():
    assert measure.peak_bytes(lambda: None, CPU) == 0


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to."""

    class Clock(measure.CpuClock):
        now = 0.0

        def mark(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(measure, "clock", lambda device: clock)
    monkeypatch.setattr(measure.time, "perf_counter", clock.mark)
    return clock


def test_rounds_pair_up_and_slow_steps_take_part_in_the_first_only(clock):
    calls = []

    def step(name, seconds):
        def run(mark):
            calls.append(name)
            start = mark()
            clock.now += seconds
            return {"both": (start, mark())}

        return run

    steps = {"quick": step("quick", 0.012), "slow": step("slow", 0.05)}
    samples = measure.interleave(steps, CPU, rounds=6, seconds_each=0.1)
    assert samples["quick"]["both"] == pytest.approx([0.012] * 6)
    assert samples["slow"]["both"] == pytest.approx([0.05] * measure.FEWEST_ROUNDS)
    assert calls[-9:] == ["quick", "slow", "slow", "quick", "quick", "slow", "quick", "quick", "quick"]


def test_short_steps_are_repeated_within_a_sample(clock):
    def step(mark):
        start = mark()
        clock.now += 0.001
        return {"both": (start, mark())}

    samples = measure.interleave({"short": step}, CPU, rounds=4, seconds_each=1.0)
    assert samples["short"]["both"] == pytest.approx([0.001] * 4)
    warm_up, alone, repeats = 1, 10, 10
    assert clock.now == pytest.approx(0.001 * (warm_up + alone + 4 * repeats))


def test_quantiles_come_last_and_ratios_are_taken_round_by_round():
    assert Spread.of([float(i) for i in range(11)]) == pytest.approx((2, 5, 8))
    assert measure.ratio([2.0, 8.0, 100.0], [1.0, 4.0]) == (2, 2, 2)
    assert measure.difference([3.0, 5.0], [1.0, 3.0]) == (2, 2, 2)


def test_forward_and_backward_of_a_gradient_step_make_up_both():
    sources, targets = CASES[0].inputs()
    moments = iter(range(5))
    phases = measure.gradient_step(yardsticks.empty_function, sources, targets)(lambda: next(moments))
    assert phases == {"loss": (3, 4), "forward": (0, 1), "backward": (1, 2), "both": (0, 2)}
    assert tuple(phases) == measure.PHASES
    assert all(x.grad is None for x in (*sources, *targets))


def test_empty_function_scales_ready_gradients():
    sources, targets = CASES[0].inputs()
    inputs = [*sources, *targets]
    gradients = torch.autograd.grad(3 * yardsticks.empty_function(sources, targets), inputs)
    assert all(torch.equal(g, 3 * x) for g, x in zip(gradients, inputs, strict=True))


def test_launches_are_kernels_copies_and_fills(monkeypatch):
    categories = ("cpu_op", "kernel", "gpu_memset", "cuda_runtime", "kernel", "gpu_memcpy", "gpu_user_annotation", None)
    events = [{"name": "x"} if c is None else {"name": "x", "cat": c} for c in categories]
    monkeypatch.setattr(measure, "_device_events", lambda action: events)
    assert measure.launches(lambda: None) == 4


def test_times_are_those_of_kernels_alone(monkeypatch):
    events = [{"name": "a", "cat": "kernel", "dur": 3.0}, {"name": "b", "cat": "gpu_memset", "dur": 9.0}, {"name": "c"}]
    monkeypatch.setattr(measure, "_device_events", lambda action: events)
    assert measure.kernel_times(lambda: None) == [("a", 3e-6)]


def test_precision_of_torchs_products_is_set_back():
    before = torch.get_float32_matmul_precision()
    for precision, setting in (("ieee", "highest"), ("tf32", "high"), ("bf16", "high")):
        with measure.torch_products(precision):
            assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_large_product_is_taken_in_slabs(monkeypatch, precision):
    shapes = []
    multiply = torch.mm

    def mm(a, b, out):
        shapes.append((a.shape[0], b.shape[1], a.dtype))
        return multiply(a, b, out=out)

    monkeypatch.setattr(yardsticks, "OUT_ELEMENTS", 72 * 30)
    monkeypatch.setattr(torch, "mm", mm)
    sources, targets = CASES[0].inputs()
    yardsticks.matmul(sources, targets, precision)(measure.CpuClock.mark)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert shapes == [(30, 72, dtype), (30, 72, dtype), (12, 72, dtype)] * 2
