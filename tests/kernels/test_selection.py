"""Which route a problem takes, and what is said where the kernels can't run. No kernel is launched here."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import fastmmd
from fastmmd import dispatch
from fastmmd.backends import cuda
from fastmmd.backends import triton as backend
from fastmmd.call import Form
from fastmmd.problem import MAX_LAYERS
from tests.helpers import JAN, call_of

pytest.importorskip("triton", reason="Triton is not installed")
from fastmmd.kernels import fused, gemm, launch_rules, small

CUDA = torch.device("cuda")


@given(
    gpu=st.sampled_from([("nvidia", 8), ("nvidia", 9), ("nvidia", 10), ("nvidia", 12), ("amd", None)]),
    precision=st.sampled_from(fastmmd.checks.PRECISIONS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(2, 1 << 20),
    dims=st.lists(st.integers(1, 100_000), min_size=1, max_size=MAX_LAYERS).map(tuple),
    columns=st.integers(0, 1000),
    rows_beside_gradients=st.booleans(),
)
def test_every_problem_has_a_rule(gpu, precision, dtype, n, dims, columns, rows_beside_gradients):
    format = launch_rules.product_format(gpu[0], precision, dtype)
    rule = launch_rules.choose(*gpu, n, dims, format, columns, rows_beside_gradients)
    assert type(rule.config) in launch_rules.ROUTES
    assert rule.reason


@pytest.mark.parametrize(
    ("n", "dims", "format", "route"),
    [
        (72, (256, 31), "ieee", small),
        (128, (2048, 8), "tf32", small),
        (256, (256,) * 8, "bf16", small),
        (128, (100_000,), "ieee", gemm),
        (257, (256, 8), "bf16", gemm),
        (8192, (256, 8), "bf16", fused),
        (8192, (256, 8), "tf32", fused),
        (8192, (256, 8), "tf32x3", gemm),
        (8192, (256, 8), "ieee", gemm),
        (8192, (2048,), "bf16", gemm),
    ],
)
def test_each_problem_takes_its_route(n, dims, format, route):
    for capability in (8, 9, 10, 12):
        assert isinstance(launch_rules.choose("nvidia", capability, n, dims, format).config, route.Config)


@pytest.mark.parametrize(
    ("n", "format", "columns", "needs_rows", "needs_grad", "route"),
    [
        (72, "ieee", 2, False, True, gemm),  # small takes plain calls alone
        (257, "bf16", 2, False, True, gemm),
        (8192, "bf16", 2, False, True, fused),
        (8192, "tf32", 16, False, True, fused),
        (8192, "bf16", 16, True, False, fused),
        (8192, "bf16", 6, True, True, gemm),
        (8192, "bf16", 31, False, True, gemm),
        (8192, "ieee", 2, False, True, gemm),
    ],
)
def test_each_form_takes_its_route(n, format, columns, needs_rows, needs_grad, route):
    inputs = [torch.empty(n // 2, d, device="meta") for d in (256, 8)]
    form = Form(torch.empty(n, columns, device="meta"), torch.empty(columns, device="meta"), needs_rows)
    call = call_of(inputs, inputs, JAN, form=form, needs_grad=[needs_grad] * 4)
    for capability in (8, 9, 10, 12):
        rule = launch_rules.choose_for(call, "nvidia", capability, format)
        assert isinstance(rule.config, route.Config)


def test_tiles_of_the_fused_route_fit_the_generation():
    columns = {
        capability: launch_rules.choose("nvidia", capability, 8192, (256, 8), "bf16").config.columns
        for capability in (8, 9, 10, 12)
    }
    assert columns == {8: 16, 9: 32, 10: 32, 12: 16}


def test_launches_overlap_where_the_generation_can():
    overlaps = {
        capability: launch_rules.choose("nvidia", capability, 128, (256, 8), "ieee").config.overlap
        for capability in (8, 9, 10, 12)
    }
    assert overlaps == {8: False, 9: True, 10: True, 12: True}
    assert not launch_rules.choose("amd", None, 128, (256, 8), "ieee").config.overlap


def test_no_format_is_less_precise_than_asked_for():
    for precision in fastmmd.checks.PRECISIONS:
        assert launch_rules.product_format("nvidia", precision, torch.float32) == precision
        assert launch_rules.product_format("nvidia", precision, torch.float64) == "ieee"
        assert launch_rules.product_format("amd", precision, torch.float32) in ("ieee", precision)


def test_auto_takes_triton_on_a_gpu_and_torch_where_it_cannot_run(monkeypatch):
    with FakeTensorMode():
        inputs = [torch.empty(64, d, device=CUDA) for d in (256, 31)]
    call = call_of(inputs, inputs, JAN)
    monkeypatch.setattr(cuda, "unavailable", lambda device: "not built")
    monkeypatch.setattr(backend, "_missing", lambda: None)
    monkeypatch.setattr(backend, "_too_old", lambda index: None)
    assert dispatch.choose("auto", call) == "triton"
    monkeypatch.setattr(backend, "_too_old", lambda index: "too old")
    assert dispatch.choose("auto", call) == "torch"
    with pytest.raises(RuntimeError, match=r"backend 'triton' can't run here: too old.*\['torch', 'reference'\]"):
        dispatch.check("triton", CUDA)


@pytest.mark.parametrize(
    ("version", "reason"), [(None, "not installed"), ("3.2.0", r"needs Triton >= 3\.5, found 3\.2\.0")]
)
def test_an_absent_or_old_triton_is_named(monkeypatch, version, reason):
    monkeypatch.setattr(backend, "version", lambda: version)
    backend._missing.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=reason):
            dispatch.check("triton", CUDA)
    finally:
        backend._missing.cache_clear()
