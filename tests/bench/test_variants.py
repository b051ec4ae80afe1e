"""What is computed of each route; where kernels run on the CPU (tests/conftest.py), of GPU routes too."""

import json

import pytest
import torch

from bench import routes, values, variants
from bench.variants import KINDS, Variant
from fastmmd import dispatch
from fastmmd.backends import triton
from fastmmd.backends.cuda.launch_rules import SMALL_ROWS
from tests.bench.test_gate import CPU

TINY = (5, 3, (7, 4))
EVERY_KIND = {
    *((precision, dtype) for precision in variants.ALLOWED for dtype in (torch.float32, *variants.ROUNDING)),
    ("ieee", torch.float64),
}


def compute(route, precision="ieee", dtype=torch.float32, sizes=TINY):
    variant = Variant(route, precision, dtype, sizes)
    return variants.errors(variant, variant.loss, CPU)


@pytest.mark.parametrize("route", routes.names(values.BACKENDS))
def test_a_route_has_every_format_and_dtype_that_it_takes(route):
    kinds = {(variant.precision, variant.dtype) for variant in variants.variants(route)}
    lacking = {("ieee", torch.float64)} if "fused" in route else set()
    if route.startswith("cuda-fused"):
        lacking = {kind for kind in EVERY_KIND if kind[0] == "ieee"}
    assert kinds == EVERY_KIND - lacking


def test_no_kind_is_computed_twice():
    assert len(set(KINDS)) == len(KINDS)


def test_sizes_are_odd_and_ragged_and_on_both_sides_of_the_rules_bounds():
    assert any(n == 1 for n, _, _ in variants.CONFIG_SIZES)
    assert any(n % 2 and n > 256 for n, _, _ in variants.CONFIG_SIZES)
    rows = [n + m for n, m, _ in variants.RULE_SIZES]
    assert min(rows) <= SMALL_ROWS < max(rows)
    assert max(rows) >= 4096


@pytest.mark.parametrize("route", ["torch", "cpu"])
@pytest.mark.parametrize(("precision", "dtype"), KINDS, ids=str)
def test_backends_of_the_cpu_are_right(route, precision, dtype):
    if reason := dispatch.unavailable(route, CPU):
        pytest.skip(reason)
    errors = compute(route, precision, dtype, (33, 31, (20, 4)))
    assert errors["right"], errors
    assert json.loads(json.dumps(errors)) == errors


@pytest.mark.parametrize("route", routes.configs())
@pytest.mark.parametrize(("precision", "dtype"), KINDS[:7], ids=str)
def test_forced_routes_are_right_where_they_run_on_the_cpu(route, precision, dtype):
    if reason := dispatch.unavailable(routes.backend_of_name(route), CPU):
        pytest.skip(reason)
    if Variant(route, precision, dtype, variants.CONFIG_SIZES[0]) not in variants.variants(route):
        pytest.skip("this route has no such values")
    if triton.interpreted() and (precision, dtype) not in (("tf32x3", torch.float32), ("bf16", torch.float32)):
        pytest.skip("its interpreter takes long")
    errors = compute(route, precision, dtype)
    assert errors["right"], errors


@pytest.mark.parametrize(
    ("broken", "key"),
    [
        (lambda loss: loss * 1.001, "loss_error"),
        (lambda loss: loss + 0.001 * (loss - loss.detach()), "gradient_error"),
        (lambda loss: loss + 1e-4 * (not loss.requires_grad), "loss_error_without_gradients"),
        (lambda loss: loss * float("nan"), "loss_error"),
    ],
    ids=["loss", "gradient", "loss without gradients", "NaN"],
)
def test_a_wrong_value_is_wrong(broken, key):
    variant = Variant("torch", "ieee", torch.float32, TINY)
    errors = variants.errors(variant, lambda sources, targets: broken(variant.loss(sources, targets)), CPU)
    assert not errors["right"]
    assert not errors[key] <= errors["allowed"][key == "gradient_error"]


def test_half_inputs_may_not_err_more_than_their_rounding():
    def rounded_to_bf16(sources, targets):
        return variant.loss([x.bfloat16() for x in sources], [x.bfloat16() for x in targets])

    variant = Variant("torch", "ieee", torch.float16, TINY)
    assert not variants.errors(variant, rounded_to_bf16, CPU)["right"]
    variant = Variant("torch", "ieee", torch.bfloat16, TINY)
    assert variants.errors(variant, rounded_to_bf16, CPU)["right"]
