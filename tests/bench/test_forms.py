"""Cases whose pairs of rows have weights: what W and A are, who takes part, and that all compute one loss."""

import argparse
from dataclasses import replace

import pytest
import torch

from bench import throughput
from bench.calls import loss_of
from bench.cases import CASES, DOMAINBED, JAN, TRVAE, Case, Targets
from bench.competitors import (
    BLOCKED,
    COMPILED,
    DENSE,
    FASTMMD,
    GEOMLOSS,
    GEOMLOSS_ONLINE,
    NEEDS,
    PER_PAIR,
    WITHOUT_WEIGHTS,
    line_up,
)
from bench.forms import Classes, Groups, Samples
from bench.gate import UNWEIGHTED, Gate, reference
from bench.measure import PHASES, CpuClock, Spread
from bench.record import Report, Result
from bench.report import markdown
from bench.restated import DSAN
from bench.yardsticks import matmul
from fastmmd import Gaussian
from tests.bench.test_gate import CPU
from tests.peers import formulas

BLUR = 2.0
SAMPLES = Case("samples", 12, 8, (16, 4), JAN, 0.2, (0.3, 0.1), form=Samples())
GEOMLOSS_CASE = Case("geomloss", 12, 8, (16,), (Gaussian(2 * BLUR**2, (1,)),), form=Samples())
CLASSES = Case("classes", 20, 20, (16,), JAN[:1], form=Classes(4))
MEAN = Case("mean of pairs", 15, 0, (16,), (DOMAINBED,), form=Groups(3))
TOTAL = Case("sum over pairs", 20, 0, (6,), (TRVAE,), form=Groups(4, total=True))
SMALL = (SAMPLES, GEOMLOSS_CASE, CLASSES, MEAN, TOTAL)
COMPETITORS = {c.name: c for c in line_up(("auto", "torch", "reference")) if c.name != COMPILED}


def geomloss(x, y):
    a, b = Samples().weights(len(x), 0, CPU).double(), Samples().weights(len(y), 1, CPU).double()
    return 2 * formulas.geomloss_gaussian(x, y, BLUR, a, b)


def local(x, y):
    form = Classes(4)
    return formulas.dsan_lmmd(x, y, form.labels(len(x), CPU), form.probabilities(len(y), CPU).double())


EXPECTED = {
    GEOMLOSS_CASE: geomloss,
    CLASSES: local,
    MEAN: lambda z: formulas.domainbed_penalty(z.split(5)),
    TOTAL: lambda z: formulas.scarches_trvae_mmd(z, torch.arange(20) // 5, 4),
}


def in_fp64(sources, targets):
    return [[x.detach().double().requires_grad_() for x in side] for side in (sources, targets)]


@pytest.mark.parametrize("case", EXPECTED, ids=lambda case: case.name)
def test_the_gates_reference_is_the_projects_formula(case, monkeypatch):
    """Up to sample weights and probabilities that add up to 1 in fp32 only."""
    monkeypatch.setattr("bench.blocked.BLOCK_ELEMENTS", 60)  # blocks of 3 or 4 rows
    inputs = [x for side in in_fp64(*case.inputs()) for x in side]
    expected = EXPECTED[case](*inputs)
    loss, gradients = reference(case, *case.inputs(), torch.float64)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradients, list(torch.autograd.grad(expected, inputs)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("name", COMPETITORS)
def test_competitors_agree_with_the_reference(name, case):
    competitor = COMPETITORS[name]
    if reason := competitor.absent(case, CPU, 2**30):
        pytest.skip(reason)
    errors, allowed = Gate(case, *case.inputs()).errors(
        competitor.make(case), competitor.estimator, competitor.leniency
    )
    assert errors.within(allowed)


@pytest.mark.parametrize("case", [CLASSES, MEAN, TOTAL], ids=lambda case: case.name)
def test_restated_projects_agree_in_fp64(case):
    """Where DomainBed's round-off is small too. DSAN keeps its weights in fp32."""
    projects = [c for c in COMPETITORS.values() if c.name in ("DomainBed", "DSAN", "trVAE")]
    (project,) = [c for c in projects if c.absent(case, CPU, 2**30) is None]
    sources, targets = in_fp64(*case.inputs())
    loss, gradients = reference(case, sources, targets, torch.float64)
    value = project.make(case)(sources, targets)
    tolerance = 1e-6 if project.name == DSAN else 1e-9
    torch.testing.assert_close(value.detach(), loss, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        list(torch.autograd.grad(value, [*sources, *targets])), gradients, rtol=10 * tolerance, atol=tolerance
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL[:3], ids=lambda case: case.name)
def test_compiled_version_agrees_with_the_reference(case):
    (competitor,) = [c for c in line_up() if c.name == COMPILED]
    if reason := competitor.absent(case, CPU, 2**30):
        pytest.skip(reason)
    errors, allowed = Gate(case, *case.inputs()).errors(competitor.make(case))
    assert errors.within(allowed)


def test_who_leaves_the_weights_out_is_checked_without_them():
    gate = Gate(SAMPLES, *SAMPLES.inputs())
    unweighted = COMPETITORS[WITHOUT_WEIGHTS].make(SAMPLES)
    errors, allowed = gate.errors(unweighted, UNWEIGHTED)
    assert errors.within(allowed)
    errors, allowed = gate.errors(unweighted)
    assert not errors.within(allowed)
    errors, allowed = gate.errors(COMPETITORS[FASTMMD].make(SAMPLES), UNWEIGHTED)
    assert not errors.within(allowed)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_call_of_a_case_is_what_the_public_function_computes(case):
    sources, targets = case.inputs()
    inputs = [*sources, *targets]
    expected = COMPETITORS[FASTMMD].make(case)(sources, targets)
    loss = loss_of(case, "torch")(sources, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=1e-4, atol=1e-7
    )


def test_who_takes_part():
    def names(case):
        return {name for name, c in COMPETITORS.items() if c.absent(case, CPU, 2**30) is None} - {"fastmmd/reference"}

    ours = {name for name in COMPETITORS if name.startswith(FASTMMD)}
    assert names(SAMPLES) - ours == {DENSE, BLOCKED}
    assert WITHOUT_WEIGHTS in names(SAMPLES)
    assert names(CLASSES) - ours == {DSAN, DENSE, BLOCKED}
    assert names(MEAN) - ours == {PER_PAIR, "DomainBed", BLOCKED}  # a Gram matrix is too coarse for gamma = 1000
    assert names(TOTAL) - ours == {PER_PAIR, "trVAE", BLOCKED}


def test_geomloss_takes_part_where_it_is_installed(monkeypatch):
    monkeypatch.setattr("bench.competitors.importlib.util.find_spec", lambda name: object())
    assert COMPETITORS[GEOMLOSS].absent(GEOMLOSS_CASE, CPU, 2**30) is None
    assert COMPETITORS[GEOMLOSS_ONLINE].absent(GEOMLOSS_CASE, CPU, 2**30) is None
    assert COMPETITORS[GEOMLOSS].absent(CLASSES, CPU, 2**30) == "has no such loss"
    assert COMPETITORS["pytorch-adapt"].absent(GEOMLOSS_CASE, CPU, 2**30) == "has no such loss"


def test_of_very_many_rows_ours_alone_is_measured():
    (case,) = [case for case in CASES if case.n_source == 7207]
    reasons = {name: c.absent(case, CPU, 8 * 2**30) for name, c in COMPETITORS.items()}
    measured = [name for name, reason in reasons.items() if reason is None]
    assert FASTMMD in measured
    assert set(measured) <= {FASTMMD, "fastmmd/torch", "KeOps"}
    assert reasons[DENSE] == f"{NEEDS} 300 GiB"


def test_rows_of_a_case_without_copies_stay_in_order():
    """Labels, groups and weights belong to them."""
    assert torch.equal(MEAN.orders[0], torch.arange(15))
    assert len(replace(SAMPLES, copies=4).orders[0].unique()) == 3


def test_a_product_of_rows_in_groups_is_of_all_rows(monkeypatch):
    shapes = []
    multiply = torch.mm

    def mm(a, b, out):
        shapes.append((tuple(a.shape), tuple(b.shape)))
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    matmul(*MEAN.inputs())(CpuClock.mark)
    assert shapes == [((15, 16), (16, 15))]


def test_a_case_is_measured_and_who_computes_another_loss_leaves_no_trace():
    options = argparse.Namespace(memory_budget_gib=1.0, longest_step=600.0, rounds=3, seconds=0.01)
    few = [c for c in COMPETITORS.values() if c.name in (FASTMMD, PER_PAIR, "DomainBed", DSAN, WITHOUT_WEIGHTS)]
    results = {result.competitor: result for result in throughput.run(MEAN, few, CPU, options)}
    assert set(results) == {FASTMMD, PER_PAIR, "DomainBed"}
    assert set(results[FASTMMD].speedup) == {PER_PAIR, "DomainBed"}
    assert all(set(result.seconds) == set(PHASES) for result in results.values())


def test_weights_of_pairs_have_a_table_of_their_own():
    case = replace(SAMPLES, targets=Targets(unweighted=0.91))
    spread = Spread(0.001, 0.002, 0.004)
    ours = Result(case.name, FASTMMD, seconds=dict.fromkeys(PHASES, spread), share=spread)
    ours.speedup = {WITHOUT_WEIGHTS: Spread(0.94, 0.95, 0.96)}
    others = Result(case.name, WITHOUT_WEIGHTS, seconds=dict.fromkeys(PHASES, spread))
    environment = {"gpu": None, "cpu": "a CPU", "threads": 2, "cpu_variant": "avx2", "revision": "0", "dirty": False}
    environment |= {"torch": "2.6", "fastmmd": "0.1", "date": "2026-01-01T00:00:00"}
    table = markdown(Report(environment, {}, [ours, others]), {case.name: case})
    before, _, section = table.partition("## Weights of pairs")
    assert "| samples |" not in before
    section = section.partition("##")[0]
    assert "x fastmmd without weights" in section
    assert "0.95 [0.94 - 0.96] (>= 0.91)" in section
    assert "x DSAN" not in section  # it took no part
