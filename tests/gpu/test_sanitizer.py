"""A small, ragged case of every route, for compute-sanitizer (bench/sanitizer.py)."""

from __future__ import annotations

import pytest
import torch

from bench import routes
from fastmmd import autograd, dispatch
from tests.gpu.helpers import CONFIGS, NAMED_CONFIGS, NAMED_CONFIGS_OF_FORMS, NEEDS_GPU, call_with_form, inputs
from tests.helpers import JAN, call_of

pytestmark = NEEDS_GPU


@pytest.mark.parametrize("name", NAMED_CONFIGS)
@pytest.mark.parametrize("gradient", [True, False])
def test_route_gives_finite_numbers(name, gradient):
    sources, targets = inputs(33, 70, (37, 5))
    call = call_of(sources, targets, JAN, needs_grad=(gradient,) * 4)
    with torch.set_grad_enabled(gradient):
        loss = autograd.evaluate(call, routes.backend_of_name(name), CONFIGS[name]).loss
        results = torch.autograd.grad(loss, [*sources, *targets]) if gradient else [loss]
    torch.cuda.synchronize()
    assert all(x.isfinite().all() for x in results)


@pytest.mark.parametrize("name", NAMED_CONFIGS_OF_FORMS)
def test_route_gives_finite_numbers_with_weights_of_pairs(name):
    call = call_with_form(33, 70, 16 if "fused" in name else 35)
    result = dispatch.BACKENDS[routes.backend_of_name(name)].run(call, CONFIGS[name])
    torch.cuda.synchronize()
    assert all(x.isfinite().all() for x in (result.loss, result.rows, *result.gradients))
