import time

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


def test_rounds_pair_up_and_slow_steps_take_part_in_the_first_only():
    calls = []

    def step(name, seconds):
        def run(mark):
            calls.append(name)
            start = mark()
            time.sleep(seconds)
            return {"both": (start, mark())}

        return run

    steps = {"quick": step("quick", 0.012), "slow": step("slow", 0.05)}
    samples = measure.interleave(steps, CPU, rounds=6, seconds_each=0.1)
    assert len(samples["quick"]["both"]) == 6
    assert len(samples["slow"]["both"]) == measure.FEWEST_ROUNDS
    assert calls[-9:] == ["quick", "slow", "slow", "quick", "quick", "slow", "quick", "quick", "quick"]
    assert measure.ratio(samples["slow"]["both"], samples["quick"]["both"]).p50 > 2


def test_spread_and_ratio():
    assert Spread.of([float(i) for i in range(11)]) == pytest.approx((2, 5, 8))
    assert measure.ratio([2.0, 8.0, 100.0], [1.0, 4.0]) == (2, 2, 2)
    assert measure.difference([3.0, 5.0], [1.0, 3.0]) == (2, 2, 2)


def test_phases_of_a_gradient_step():
    sources, targets = CASES[0].inputs()
    phases = measure.gradient_step(yardsticks.empty_function, sources, targets)(measure.CpuClock.mark)
    assert tuple(phases) == measure.PHASES
    seconds = {name: end - begin for name, (begin, end) in phases.items()}
    assert seconds["forward"] + seconds["backward"] == pytest.approx(seconds["both"])
    assert all(x.grad is None for x in (*sources, *targets))


def test_empty_function_scales_ready_gradients():
    sources, targets = CASES[0].inputs()
    inputs = [*sources, *targets]
    gradients = torch.autograd.grad(3 * yardsticks.empty_function(sources, targets), inputs)
    assert all(torch.equal(g, 3 * x) for g, x in zip(gradients, inputs, strict=True))
