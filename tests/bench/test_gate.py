"""The gate's reference, who passes it, and what does not."""

from dataclasses import replace

import pytest
import torch

from bench import keops, measure
from bench.cases import CASES, JAN, Case, main_rows
from bench.competitors import BLOCKED, COMPILED, DENSE, NAIVE, NEEDS, line_up
from bench.gate import Gate, reference
from fastmmd import discrepancy

CPU = torch.device("cpu")
SMALL = Case("small", 12, 8, (16, 4), JAN, 0.2, (0.3, 0.1))
COMPETITORS = {c.name: c for c in line_up(("auto", "torch", "reference")) if c.name != COMPILED}
PEERS = ("pytorch-adapt", "geomloss", keops.NAME)


def in_fp64(case, sources, targets, estimator="biased"):
    """fastmmd's dense reference, by differences."""
    sources, targets = ([x.detach().double().requires_grad_() for x in side] for side in (sources, targets))
    options = {"joint": case.joint, "marginal": case.marginals, "estimator": estimator, "backend": "reference"}
    loss = discrepancy(sources, targets, case.kernels, **options).loss
    return loss.detach(), torch.autograd.grad(loss, [*sources, *targets])


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_reference_equals_fastmmds(estimator, monkeypatch):
    monkeypatch.setattr("bench.blocked.BLOCK_ELEMENTS", 60)  # blocks of 3 rows
    sources, targets = SMALL.inputs()
    loss, gradients = reference(SMALL, sources, targets, torch.float64, estimator)
    expected, of_inputs = in_fp64(SMALL, sources, targets, estimator)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradients, list(of_inputs), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("copies", "target_copies", "distinct"), [(4, None, 4), (4, 8, 2), (1, 8, 2)])
def test_reference_of_copies_equals_that_of_all_rows(copies, target_copies, distinct):
    case = replace(SMALL, n_source=24, n_target=16, copies=copies, target_copies=target_copies)
    sources, targets = case.inputs()
    assert (len(sources[0].unique(dim=0)), len(targets[0].unique(dim=0))) == (24 // copies, distinct)
    loss, gradients = reference(case, sources, targets, torch.float64)
    expected, of_inputs = reference(replace(case, copies=1, target_copies=None), sources, targets, torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradients, of_inputs, rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="copies"):
        reference(case, sources, targets, torch.float64, "unbiased")


@pytest.mark.parametrize("case", [SMALL, CASES[0], CASES[1]], ids=lambda case: case.name)
@pytest.mark.parametrize("name", [name for name in COMPETITORS if name not in PEERS])
def test_competitors_agree_with_the_reference(name, case):
    competitor = COMPETITORS[name]
    if competitor.absent(case, CPU, 2**30):
        pytest.skip(competitor.absent(case, CPU, 2**30))
    errors, allowed = Gate(case, *case.inputs()).errors(competitor.make(case), competitor.estimator)
    assert errors.within(allowed)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("case", main_rows()[:3], ids=lambda case: case.name)
def test_gpu_backends_pass_the_gate_where_they_run_on_the_cpu(backend, case):
    """As tests/conftest.py says."""
    (competitor,) = line_up((backend,))[:1]
    if reason := competitor.absent(case, CPU, 2**30):
        pytest.skip(reason)
    errors, allowed = Gate(case, *case.inputs()).errors(competitor.make(case))
    assert errors.within(allowed)


@pytest.mark.parametrize("name", PEERS)
def test_peers_agree_with_the_reference(name):
    case = SMALL if name == keops.NAME else Case("one layer", 20, 20, (16,), JAN[:1])
    competitor = COMPETITORS[name]
    if competitor.absent(case, CPU, 2**30):
        pytest.skip(competitor.absent(case, CPU, 2**30))
    errors, allowed = Gate(case, *case.inputs()).errors(competitor.make(case), competitor.estimator)
    assert errors.within(allowed)


@pytest.mark.parametrize("wrong", [lambda x: 1.001 * x, lambda x: x + 1e-4, lambda x: x + 1e-3 * (x - x.detach())])
def test_gate_catches_a_wrong_loss_and_a_wrong_gradient(wrong):
    right = COMPETITORS[DENSE].make(SMALL)
    gate = Gate(SMALL, *SMALL.inputs())
    errors, allowed = gate.errors(lambda sources, targets: wrong(right(sources, targets)))
    assert not errors.within(allowed)
    errors, allowed = gate.errors(lambda sources, targets: float("nan") * right(sources, targets))
    assert not errors.within(allowed)


@pytest.mark.parametrize("name", [NAIVE, DENSE])
@pytest.mark.parametrize("case", [Case("one", 256, 256, (8,), JAN[:1]), Case("two", 256, 256, (16, 4), JAN)])
def test_stated_need_is_the_measured_peak(name, case):
    competitor = COMPETITORS[name]
    step = measure.gradient_step(competitor.make(case), *case.inputs())
    peak = measure.peak_bytes(lambda: step(measure.CpuClock.mark), CPU)
    assert competitor.needs(case) == pytest.approx(peak, rel=0.25)
    assert competitor.absent(case, CPU, peak / 2).startswith(NEEDS)


@pytest.mark.slow
def test_compiled_version_agrees_with_the_reference():
    (competitor,) = [c for c in line_up() if c.name == COMPILED]
    if competitor.absent(SMALL, CPU, 2**30):
        pytest.skip(competitor.absent(SMALL, CPU, 2**30))
    errors, allowed = Gate(SMALL, *SMALL.inputs()).errors(competitor.make(SMALL))  # small enough for no leniency
    assert errors.within(allowed)


def test_blocked_computes_all_copies_in_blocks(monkeypatch):
    monkeypatch.setattr("bench.blocked.BLOCK_ELEMENTS", 60)
    case = replace(SMALL, n_source=24, n_target=16, copies=4)
    sources, targets = case.inputs()
    loss = COMPETITORS[BLOCKED].make(case)
    errors, allowed = Gate(case, sources, targets).errors(loss)
    assert errors.within(allowed)
    value = loss(sources, targets)
    with torch.no_grad():
        assert torch.equal(loss(sources, targets), value)


def test_keops_says_why_it_takes_no_part(monkeypatch):
    installed = None
    monkeypatch.setattr(keops.importlib.util, "find_spec", lambda name: installed)
    assert keops.refuses(SMALL, CPU) == "not installed"
    installed = object()
    assert keops.refuses(SMALL, CPU) is None
    assert "fp32 only" in keops.refuses(replace(SMALL, precision="tf32"), CPU)
    assert "narrow layers" in keops.refuses(replace(SMALL, dims=(2048, 4)), CPU)


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 10), ("bf16", 7)])
def test_the_gate_allows_a_formats_rounding_and_no_more(precision, bits):
    case = replace(SMALL, precision=precision)
    gate = Gate(case, *case.inputs())
    right = COMPETITORS[DENSE].make(case)

    def rounded(bits):
        def loss(sources, targets):
            step = 2.0 ** (bits + 1)  # of the fraction
            sides = [[x + (_rounded(x, step) - x).detach() for x in side] for side in (sources, targets)]
            return right(sides[0], sides[1])

        return loss

    errors, allowed = gate.errors(rounded(bits))
    assert errors.within(allowed)
    errors, allowed = gate.errors(rounded(bits - 5))
    assert not errors.within(allowed)


def _rounded(x, step):
    fraction, exponent = torch.frexp(x.detach())
    return torch.ldexp((fraction * step).round() / step, exponent)
