"""Which route a problem takes, and what is said where the kernels can't run. No kernel is launched here."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastmmd
from fastmmd import Gaussian, dispatch
from fastmmd.backends import cuda
from fastmmd.backends import triton as backend
from fastmmd.problem import make_problem

pytest.importorskip("triton", reason="Triton is not installed")
from fastmmd.kernels import blocks, small, table, tiles

CUDA = torch.device("cuda")


@given(
    vendor=st.sampled_from(["nvidia", "amd"]),
    precision=st.sampled_from(fastmmd.checks.PRECISIONS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(2, 1 << 20),
    dims=st.lists(st.integers(1, 100_000), min_size=1, max_size=8).map(tuple),
)
def test_every_problem_finds_a_line(vendor, precision, dtype, n, dims):
    line = table.line(vendor, n, dims, table.product_format(vendor, precision, dtype))
    assert isinstance(line.config, small.Config | tiles.Config | blocks.Config)
    assert line.reason


@pytest.mark.parametrize(
    ("n", "dims", "format", "route"),
    [
        (72, (256, 31), "ieee", small),
        (128, (2048, 8), "tf32", small),
        (256, (256,) * 8, "bf16", small),
        (128, (100_000,), "ieee", blocks),
        (257, (256, 8), "bf16", blocks),
        (8192, (256, 8), "bf16", tiles),
        (8192, (256, 8), "tf32", blocks),
        (8192, (2048,), "bf16", blocks),
    ],
)
def test_routes(n, dims, format, route):
    assert isinstance(table.line("nvidia", n, dims, format).config, route.Config)


def test_no_format_is_less_precise_than_asked_for():
    for precision in fastmmd.checks.PRECISIONS:
        assert table.product_format("nvidia", precision, torch.float32) == precision
        assert table.product_format("nvidia", precision, torch.float64) == "ieee"
        assert table.product_format("amd", precision, torch.float32) in ("ieee", precision)


def test_auto_takes_triton_on_a_gpu_and_torch_where_it_cannot_run(monkeypatch):
    problem = make_problem(64, 64, (Gaussian().static,), 1.0, (0.0,), "biased")
    monkeypatch.setattr(cuda, "unavailable", lambda device: "not built")
    monkeypatch.setattr(backend, "_missing", lambda: None)
    monkeypatch.setattr(backend, "_too_old", lambda index: None)
    assert dispatch.choose("auto", CUDA, problem) == "triton"
    monkeypatch.setattr(backend, "_too_old", lambda index: "too old")
    assert dispatch.choose("auto", CUDA, problem) == "torch"
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
