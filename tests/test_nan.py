"""NaN in, NaN out: a loss that hides a broken row trains on."""

import pytest
import torch

import fastmmd
from fastmmd import Gaussian, median
from tests.helpers import FAST, call_of, layers

RULES = {
    "mean": Gaussian(),
    "mean_all": Gaussian("mean_all"),
    "undetached": Gaussian(detach_bandwidth=False),
    "median": Gaussian("median"),
    "number": Gaussian(2.0),
    "tensor": Gaussian(torch.tensor(2.0)),
}
NAN, INFINITY = float("nan"), float("inf")


def broken(value, domain, row, n=20, dim=5):
    """Source and target with one value replaced."""
    sides = [layers(n, (dim,), seed, 0.3, torch.float32)[0].detach() for seed in range(2)]
    sides[domain][row, dim // 2] = value
    return sides


def check_one_nan(rule, row, domain, **options):
    source, target = (x.requires_grad_() for x in broken(NAN, domain, row))
    parts = fastmmd.discrepancy([source], [target], [RULES[rule]], **options)
    assert parts.loss.isnan()
    assert parts.marginals.isnan().all()
    if rule not in ("number", "tensor"):
        assert parts.bandwidths.isnan().all()
    assert any(x.isnan().any() for x in torch.autograd.grad(parts.loss, (source, target)))


@pytest.mark.parametrize("domain", [0, 1], ids=["source", "target"])
@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_nan_reaches_the_loss_and_its_gradient(estimator, backend, rule, row, domain):
    check_one_nan(rule, row, domain, estimator=estimator, backend=backend)


@pytest.mark.parametrize("domain", [0, 1], ids=["source", "target"])
@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ["linear", "circular"])
def test_a_nan_reaches_the_linear_estimators(estimator, rule, row, domain):
    check_one_nan(rule, row, domain, estimator=estimator)


@pytest.mark.parametrize("domain", [0, 1], ids=["source", "target"])
@pytest.mark.parametrize("rule", RULES)
def test_a_nan_in_the_row_that_a_linear_estimator_has_no_partner_for(rule, domain):
    source, target = broken(NAN, domain, -1, n=21)
    assert fastmmd.mmd(source, target, RULES[rule], estimator="linear").isnan()


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("rule", ["mean", "median"])
@pytest.mark.parametrize("sign", [1, -1])
def test_infinities_whose_difference_is_nan(backend, rule, sign):
    source, target = broken(sign * INFINITY, 0, 3)
    target[5] = source[3]
    assert fastmmd.mmd(source, target, RULES[rule], backend=backend).isnan()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_layer_that_is_not_broken_keeps_its_value(backend):
    sources, targets = (layers(12, (6, 3), seed, 0.3, torch.float32) for seed in range(2))
    with torch.no_grad():
        sources[0][0, 0] = NAN
    kernels = (Gaussian("median"), Gaussian(1.68, (1,)))
    parts = fastmmd.discrepancy(sources, targets, kernels, backend=backend, marginal=(0.0, 1.0))
    assert parts.joint.isnan()
    assert parts.marginals.isnan().tolist() == [True, False]
    assert parts.bandwidths.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1 << 21, 300], ids=["one block", "streaming"])
@pytest.mark.parametrize("value", [NAN, -NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("row", range(0, 40, 13))
def test_streaming_median_of_a_broken_row(monkeypatch, dtype, block, value, row):
    monkeypatch.setattr(median, "TILE_ELEMENTS", block)
    source, target = broken(value, row // 20, row % 20)
    assert median.streaming_median(source.to(dtype), target.to(dtype)).isnan()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_bandwidth_zero_hides_no_nan(backend):
    """Its kernel is 1 at distance 0 and 0 beyond; NaN is neither."""
    source, target = broken(NAN, 0, 3)
    zero = torch.zeros((), requires_grad=True)
    bandwidths = torch.zeros(1, dtype=torch.float64)
    call = call_of([source], [target], [Gaussian(zero)], bandwidths=bandwidths, needs_grad=(False, False))
    assert fastmmd.dispatch.BACKENDS[backend].run(call).loss.isnan()
