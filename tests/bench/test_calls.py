"""The loss of a case as a call of a backend: the same as the public one, and computed as its config says."""

from dataclasses import replace

import pytest
import torch

from bench.calls import call_of, loss_of
from bench.cases import JAN, Case
from fastmmd import discrepancy
from fastmmd.backends import torch_tiles

CASE = Case("small", 40, 33, (16, 4), JAN, 0.2, (0.3, 0.1))


def test_loss_and_gradients_are_those_of_the_public_function():
    sources, targets = CASE.inputs()
    options = {"joint": CASE.joint, "marginal": CASE.marginals, "backend": "torch", "precision": "ieee"}
    expected = discrepancy(sources, targets, CASE.kernels, **options).loss
    assert torch.equal(loss_of(CASE, "torch")(sources, targets), expected)
    gradients = gradients_of(loss_of(CASE, "torch"), sources, targets)
    expected_gradients = torch.autograd.grad(expected, [*sources, *targets])
    assert all(torch.equal(gradient, truth) for gradient, truth in zip(gradients, expected_gradients, strict=True))


def test_a_config_is_used_as_it_is():
    """Products that may lose no digit are taken in fp64."""
    sources, targets = CASE.inputs()
    wide_sources, wide_targets = ([x.detach().double().requires_grad_() for x in side] for side in (sources, targets))
    in_fp64 = gradients_of(loss_of(CASE, "torch"), wide_sources, wide_targets)
    exactly = gradients_of(loss_of(CASE, "torch", torch_tiles.Config(product_condition=0.0)), sources, targets)
    usual = gradients_of(loss_of(CASE, "torch"), sources, targets)
    assert all(torch.equal(gradient, wide.float()) for gradient, wide in zip(exactly, in_fp64, strict=True))
    assert not any(torch.equal(gradient, wide.float()) for gradient, wide in zip(usual, in_fp64, strict=True))


def gradients_of(loss, sources, targets):
    return torch.autograd.grad(loss(sources, targets), [*sources, *targets])


@pytest.mark.parametrize("recorded", [True, False])
def test_gradients_are_computed_where_they_are_recorded_and_required(recorded):
    sources, targets = CASE.inputs()
    targets[1] = targets[1].detach()
    with torch.set_grad_enabled(recorded):
        call = call_of(CASE, sources, targets)
        loss = loss_of(CASE, "torch")(sources, targets)
    assert list(call.needs_grad) == [recorded, recorded, recorded, False]
    assert loss.requires_grad == recorded


def test_the_cases_precision_reaches_the_backend():
    sources, targets = CASE.inputs()
    assert call_of(replace(CASE, precision="bf16"), sources, targets).precision == "bf16"
