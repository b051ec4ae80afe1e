"""Values of calls whose pairs have weights; where kernels run on the CPU (tests/conftest.py), of GPU backends too."""

import json

import pytest
import torch

from bench import form_values, values
from bench.form_values import KINDS, SIZES, FormVariant
from fastmmd import dispatch
from fastmmd.backends.cuda.launch_rules import SMALL_ROWS
from tests.bench.test_gate import CPU

TINY = {"sample weights": (7, 5, (6, 3)), "groups": (9, 12, (6, 3)), "local MMD": (35, 40, (6,)), "forms": (7, 5, (6,))}


@pytest.mark.parametrize("backend", values.BACKENDS)
def test_a_backend_has_every_kind_in_every_format_that_it_takes(backend):
    variants = values.values_of(f"{backend}-forms")
    assert {variant.kind for variant in variants} == SIZES.keys()
    assert {(variant.precision, variant.dtype) for variant in variants} == set(KINDS)
    rows = [variant.sizes[0] + variant.sizes[1] for variant in variants]
    assert min(rows) <= SMALL_ROWS
    assert (max(rows) >= 8192) == (backend != "cuda")
    assert max(rows) <= SMALL_ROWS or backend != "cuda"


def test_the_default_has_the_forms_of_every_backend_of_a_gpu():
    assert set(values.names(values.GPU_BACKENDS)) >= {"cuda-forms", "torch-forms", "triton-forms"}
    assert len(values.names(values.BACKENDS)) == len(set(values.names(values.BACKENDS)))


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize(("precision", "dtype"), KINDS, ids=str)
@pytest.mark.parametrize("backend", values.BACKENDS)
def test_backends_are_right_where_they_run_on_the_cpu(backend, precision, dtype, kind):
    if reason := dispatch.unavailable(backend, CPU):
        pytest.skip(reason)
    line = values.evaluate(FormVariant(f"{backend}-forms", precision, dtype, kind, TINY[kind]), CPU)
    assert line["right"], line
    assert json.loads(json.dumps(line))["form"] == kind


@pytest.mark.parametrize("kind", SIZES)
def test_a_loss_without_its_weights_is_wrong(kind):
    variant = FormVariant("torch-forms", "bf16", torch.float32, kind, TINY[kind])
    sides = len(TINY[kind][2])

    def plain(inputs):
        case = variant.case
        return form_values.fastmmd.jmmd(inputs[:sides], inputs[sides:], case.kernels, backend="torch")

    assert not form_values.errors(variant, plain, CPU)["right"]


@pytest.mark.parametrize(
    ("broken", "key"),
    [
        (lambda loss: loss * 1.001, "loss_error"),
        (lambda loss: loss + 0.001 * (loss - loss.detach()), "gradient_error"),
        (lambda loss: loss * float("nan"), "loss_error"),
    ],
    ids=["loss", "gradient", "NaN"],
)
def test_a_wrong_value_is_wrong(broken, key):
    variant = FormVariant("torch-forms", "ieee", torch.float32, "groups", TINY["groups"])
    errors = form_values.errors(variant, lambda inputs: broken(form_values.loss_of(variant, inputs, "torch")), CPU)
    assert not errors["right"]
    assert not errors[key] <= errors["allowed"][key == "gradient_error"]
