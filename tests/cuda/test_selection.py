"""Which problems the CUDA backend takes and how, and what is said where it can't run. No kernel is launched here."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastmmd
from fastmmd import Gaussian, compiled, dispatch
from fastmmd.backends import cuda, triton
from fastmmd.problem import make_problem

CUDA = torch.device("cuda", 0)
H200, CONSUMER = 227 << 10, 99 << 10  # shared memory of a block


def extension(**attributes):
    """Stands for a build with CUDA kernels."""

    def shared_bytes(format, units, layers, with_gradient, buffers):
        element = 2 if format in ("bf16", "f16") else 4
        return 3000 + element * 64 * ((1 + buffers) * 16 * units + layers * 64)

    usual = {
        "CUDA": True,
        "CUDA_ABSENT": "",
        "CUDA_ON_HOST": False,
        "CUDA_ARCHS": "90",
        "cuda_tiles_shared_bytes": shared_bytes,
        "cuda_probe": lambda device: "",
    }
    return SimpleNamespace(**(usual | attributes))


@pytest.fixture(autouse=True)
def forget():
    yield
    for cached in (cuda.line, cuda._not_compiled_for, cuda._shared_memory):
        cached.cache_clear()


def problem(n, gaussians=5):
    """Of three layers."""
    kernel = Gaussian(multipliers=tuple(range(1, 1 + gaussians)))
    return make_problem(n, n, (kernel.static,) * 3, 1.0, (0.0,) * 3, "biased")


@given(
    format=st.sampled_from(cuda.ALL),
    n=st.integers(2, 1 << 20),
    dims=st.lists(st.integers(1, 100_000), min_size=1, max_size=8).map(tuple),
    shared=st.sampled_from([H200, CONSUMER]),
)
def test_every_problem_finds_a_line(format, n, dims, shared):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "module", extension())
        cuda.line.cache_clear()
        line = cuda.line(n, dims, format, shared)
    assert line.reason
    if isinstance(line.config, cuda.Tiles):
        assert format != "fp64"


@pytest.mark.parametrize(
    ("n", "dims", "format", "shared", "config"),
    [
        (72, (256, 31), "ieee", H200, cuda.Small(64, 32)),
        (128, (2048, 8), "tf32", H200, cuda.Small(256, 64)),
        (256, (256,) * 8, "fp64", H200, cuda.Small(256, 64)),
        (128, (100_000,), "ieee", H200, cuda.Blocks(64 << 20)),
        (257, (256, 8), "bf16", H200, cuda.Blocks(64 << 20)),
        (8192, (256, 8), "bf16", H200, cuda.Tiles(264, 2)),
        (8192, (256, 8), "bf16", CONSUMER, cuda.Tiles(264, 1)),
        (8192, (256, 8), "tf32x3", H200, cuda.Tiles(264, 1)),
        (8192, (256, 8), "tf32", CONSUMER, cuda.Blocks(64 << 20)),
        (8192, (256, 8), "ieee", H200, cuda.Blocks(64 << 20)),
        (8192, (64, 8), "ieee", H200, cuda.Tiles(264, 2)),
        (8192, (64, 8), "fp64", H200, cuda.Blocks(64 << 20)),
        (8192, (2048,), "bf16", H200, cuda.Blocks(64 << 20)),
        (8192, (64, 8, 8), "bf16", H200, cuda.Blocks(64 << 20)),
    ],
)
def test_routes(monkeypatch, n, dims, format, shared, config):
    monkeypatch.setattr(compiled, "module", extension())
    assert cuda.line(n, dims, format, shared).config == config


def test_no_format_is_less_precise_than_asked_for():
    single, half = [torch.zeros(2, 2)], [torch.zeros(2, 2, dtype=torch.float16)]
    for precision in fastmmd.checks.PRECISIONS:
        assert cuda.product_format(precision, single, torch.float32) == precision
        assert cuda.product_format(precision, single, torch.float64) == "fp64"
    assert cuda.product_format("tf32", half, torch.float32) == "f16"
    assert cuda.product_format("ieee", half, torch.float32) == "ieee"
    assert cuda.product_format("tf32", [*half, *single], torch.float32) == "tf32"


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("80 86 90", (8, 0), True),
        ("80 86 90", (8, 9), True),  # code of an earlier minor version
        ("86", (8, 0), False),
        ("80 90", (10, 0), False),
        ("80 90 90+PTX", (10, 0), True),
        ("80 90 90+PTX", (7, 5), False),
        ("75 80 80+PTX", (7, 5), True),
        ("75", (8, 0), False),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("100 120 100+PTX", (12, 1), True),
        ("100 100+PTX", (12, 0), True),
    ],
)
def test_architectures(built, capability, runs):
    reason = cuda.missing_architecture(capability, built)
    assert (reason is None) == runs
    if not runs:
        assert built in reason


@pytest.mark.parametrize(
    ("capability", "n", "route", "format"),
    [
        ((7, 5), 64, cuda.Small, None),
        ((7, 5), 300, cuda.Blocks, "ieee"),
        ((7, 5), 5000, cuda.Blocks, "ieee"),
        ((8, 0), 64, cuda.Small, None),
        ((8, 0), 300, cuda.Blocks, "tf32"),
        ((8, 0), 5000, cuda.Tiles, "tf32"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_tensor_core_is_asked_for_below_8_0(monkeypatch, capability, n, route, format, dtype):
    """Tiles trap there, and rounding to TF32 would only lose digits."""
    taken = []

    def instead(problem, sources, targets, bandwidths, needs_grad, format_or_dtype, config):
        taken.append((type(config), None if isinstance(config, cuda.Small) else format_or_dtype))
        return torch.zeros(()), torch.zeros(3), [None, None]

    monkeypatch.setattr(compiled, "module", extension())
    monkeypatch.setattr(cuda, "_capability", lambda device: capability)
    for name in ("small", "tiles", "blocks"):
        monkeypatch.setattr(cuda, name, instead)
    cuda._shared_memory.cache_clear()
    half = torch.zeros(n // 2, 40, dtype=dtype)
    one_layer = make_problem(n // 2, n // 2, (Gaussian().static,), 1.0, (0.0,), "biased")
    cuda.run(one_layer, [half], [half], None, [True, True], "tf32")
    format = "f16" if (format, dtype) == ("tf32", torch.float16) else format
    assert taken == [(route, format)]


def test_auto_takes_cuda_for_few_rows_and_triton_for_many(monkeypatch):
    monkeypatch.setattr(compiled, "module", extension())
    monkeypatch.setattr(cuda, "_not_compiled_for", lambda index: None)
    monkeypatch.setattr(triton, "unavailable", lambda device: None)
    assert dispatch.choose("auto", CUDA, problem(64)) == "cuda"
    assert dispatch.choose("auto", CUDA, problem(5000)) == "triton"
    assert dispatch.choose("auto", CUDA, problem(64, gaussians=43)) == "triton"
    monkeypatch.setattr(triton, "unavailable", lambda device: "no compiler")
    assert dispatch.choose("auto", CUDA, problem(5000)) == "cuda"
    assert dispatch.choose("auto", CUDA, problem(64, gaussians=43)) == "torch"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (extension(CUDA=False, CUDA_ABSENT="no nvcc was found"), "installed without CUDA kernels: no nvcc was found"),
        (extension(), "it computes on CUDA devices, the tensors are on cpu"),
        (None, "can't be imported"),
    ],
)
def test_why_it_cannot_run_is_said(monkeypatch, module, reason):
    monkeypatch.setattr(compiled, "module", module)
    if module is None:
        monkeypatch.setattr(compiled, "reason", "fastmmd._C can't be imported")
    with pytest.raises(RuntimeError, match=reason):
        fastmmd.mmd(torch.zeros(3, 2), torch.zeros(3, 2), backend="cuda")
