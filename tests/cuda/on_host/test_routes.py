"""Each route of the CUDA backend against the dense reference in fp64, with its kernels on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd import Gaussian
from fastmmd.backends import cuda
from tests.helpers import JAN, layers, relative
from tests.routes import *  # noqa: F403 the tests of every route
from tests.routes import MIXED, Route, check, exact, problem_of

# Tiles, parts and chunks that are ragged and several at the sizes of the tests.
CONFIGS = {
    "small32": cuda.Small(part_features=64, chunk=32),
    "small64": cuda.Small(part_features=100, chunk=64),
    "tiles": cuda.Tiles(blocks=1, buffers=1),
    "tiles_split": cuda.Tiles(blocks=9, buffers=2),
    "blocks": cuda.Blocks(workspace_bytes=4 * 2 * 64 * 64),
}
TILES_FORMATS = ("ieee", "tf32x3", "tf32", "bf16", "f16")


def that_fits(config, inputs):
    """With one buffer where two are more shared memory than an H200 has."""
    dims = tuple(x.shape[1] for x in inputs[1])
    units = sum(-(-d // 16) for d in dims)
    bytes = cuda.compiled.module.cuda_tiles_shared_bytes(inputs[-1], units, len(dims), True, config.buffers)
    return config if bytes <= 227 << 10 else config._replace(buffers=1)


def route_of(name):
    config = CONFIGS[name]

    def compute(problem, sources, targets, bandwidths, needs_grad, dtype, format):
        if isinstance(config, cuda.Small):
            return cuda.small(problem, sources, targets, bandwidths, needs_grad, dtype, config)
        if dtype == torch.float64:
            sources, targets = [x.double() for x in sources], [x.double() for x in targets]
        else:
            sources, targets = (
                [x.float() if x.dtype == torch.float64 else x for x in side] for side in (sources, targets)
            )
        inputs = (problem, sources, targets, bandwidths, needs_grad, format)
        with torch.no_grad():
            return (
                cuda.tiles(*inputs, that_fits(config, inputs))
                if isinstance(config, cuda.Tiles)
                else cuda.blocks(*inputs, config)
            )

    if isinstance(config, cuda.Tiles):
        return Route(name, compute, torch.float32, layers=2, features=288)
    return Route(name, compute)


def run(name, *arguments, **options):
    return route_of(name).run(*arguments, **options)


@pytest.fixture(params=list(CONFIGS))
def route(request):
    return route_of(request.param)


# Gradient errors: the least that the format allows (a smaller one would mean that it was not used) and the most.
@pytest.mark.parametrize("name", ["tiles", "tiles_split"])
@pytest.mark.parametrize(
    ("format", "least", "most"),
    [("ieee", 0, 1e-6), ("tf32x3", 0, 2e-6), ("tf32", 1e-4, 3e-3), ("f16", 1e-4, 3e-3), ("bf16", 1e-3, 2e-2)],
)
@pytest.mark.parametrize("shift", [0.3, 100.0])
def test_formats(name, format, least, most, shift):
    """The mean of the features does not matter: rows are centred before they are rounded."""
    sources = layers(64, (128, 8), 1, shift, torch.float32)
    targets = layers(40, (128, 8), 2, shift + 0.2, torch.float32)
    problem = problem_of(64, 40, JAN)
    truth = exact(problem, sources, targets)
    loss, _, gradients = run(name, problem, sources, targets, format=format)
    assert loss.item() == pytest.approx(truth[0].item(), abs=0.2 * most * truth[0].item() + 3e-7)
    assert least <= relative(gradients[0], truth[2][0]) <= most
    assert least <= relative(gradients[2], truth[2][2]) <= most


@pytest.mark.parametrize("format", TILES_FORMATS)
@settings(max_examples=6)
@given(data=st.data())
def test_tiles_of_any_size(format, data):
    n, m = data.draw(st.integers(1, 200), "n"), data.draw(st.integers(1, 200), "m")
    dims = data.draw(st.sampled_from([(1,), (16,), (40, 5), (128,), (129, 3), (256, 31), (300,)]), "dims")
    config = cuda.Tiles(data.draw(st.integers(1, 20), "blocks"), data.draw(st.sampled_from([1, 2]), "buffers"))
    needs_grad = data.draw(st.lists(st.booleans(), min_size=2 * len(dims), max_size=2 * len(dims)), "needs_grad")
    sources, targets = layers(n, dims, 1, dtype=torch.float32), layers(m, dims, 2, 0.5, torch.float32)
    problem = problem_of(n, m, JAN[: len(dims)])
    inputs = (problem, sources, targets, None, needs_grad, format)
    with torch.no_grad():
        found = cuda.tiles(*inputs, that_fits(config, inputs))
    tolerance = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 5e-3, "f16": 5e-3, "bf16": 4e-2}[format]
    check(found, exact(problem, sources, targets), tolerance)


REPORTS = Path(__file__).parents[2] / "csrc" / "resources"


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("format", TILES_FORMATS)
@pytest.mark.parametrize("dims", [(128,), (64, 64)])
def test_registers_are_held_down_only_where_two_blocks_of_threads_fit(path, format, dims):
    kernel = json.loads(path.read_text())["sm_90"][f"tiles: tiles_loss<{format}, 2, 2>"]
    buffers = cuda.line(8192, dims, format, 227 << 10).config.buffers if format != "ieee" else 2
    units = sum(-(-d // 16) for d in dims)
    bytes = cuda.compiled.module.cuda_tiles_shared_bytes(format, units, len(dims), True, buffers)
    two_fit = 2 * (bytes + (1 << 10)) <= 228 << 10  # the system takes 1 KiB for each
    assert (kernel["registers"] <= 128) == two_fit


def test_rows_of_inner_products_are_aligned_for_the_library(monkeypatch):
    """Matrices with a leading dimension that is no multiple of 16 bytes are multiplied by slow kernels."""
    strides = []
    multiply = torch.mm

    def mm(a, b, out):
        strides.append(out.stride())
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    sources, targets = layers(37, (16, 8), 1, dtype=torch.float32), layers(64, (16, 8), 2, 0.2, torch.float32)
    problem = problem_of(37, 64, JAN)
    check(run("blocks", problem, sources, targets), exact(problem, sources, targets), 5e-6)
    assert len(strides) == 2 * 3  # layers, pairs of blocks
    assert all(row % 8 == 0 and column == 1 for row, column in strides), strides


def test_small_coefficients_are_not_lost_in_fp16():
    """They are near 1 / N^2: without their scale the gradient would be made of subnormals."""
    sources, targets = layers(400, (16,), 1, dtype=torch.float32), layers(300, (16,), 2, 0.1, torch.float32)
    problem = problem_of(400, 300, JAN[:1], 1e-3, (0.0,))
    truth = exact(problem, sources, targets)
    assert relative(run("tiles", problem, sources, targets, format="f16")[2][0], truth[2][0]) < 1e-3


@pytest.mark.parametrize("format", ["tf32", "bf16"])
def test_blocks_round_to_what_the_library_multiplies(format):
    """On a CPU the library's products are fp32, so only the rounding of rows shows."""
    sources, targets = layers(64, (128,), 1, dtype=torch.float32), layers(40, (128,), 2, 0.2, torch.float32)
    problem = problem_of(64, 40, JAN[:1])
    error = relative(
        run("blocks", problem, sources, targets, format=format)[2][0], exact(problem, sources, targets)[2][0]
    )
    assert 5e-5 <= error <= 3e-3


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_a_far_row_leaves_the_others(name, size):
    """With a bandwidth that is no mean: rows are taken around where most of them are."""
    sources, targets = layers(70, (9,), 1, dtype=torch.float32), layers(40, (9,), 2, 0.3, torch.float32)
    with torch.no_grad():
        sources[0][33] = size
    problem = problem_of(70, 40, (Gaussian(9.0),))
    truth = exact(problem, sources, targets)
    loss, _, gradients = run(name, problem, sources, targets)
    assert loss.item() == pytest.approx(truth[0].item(), rel=1e-5)
    near = torch.arange(70) != 33
    assert relative(gradients[0][near], truth[2][0][near]) < 1e-5


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32, torch.bfloat16)], ids=str)
def test_every_layer_has_its_own_dtype(dtypes):
    sources = [x.to(dtype) for x, dtype in zip(layers(40, (70, 8, 20), 1), dtypes, strict=True)]
    targets = [x.to(dtype) for x, dtype in zip(layers(33, (70, 8, 20), 2, 0.2), dtypes, strict=True)]
    problem = problem_of(40, 33, MIXED)
    check(run("small32", problem, sources, targets), exact(problem, sources, targets), 5e-6)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_results_are_the_same_bits_each_time(name):
    sources, targets = layers(130, (70, 8), 1, dtype=torch.float32), layers(65, (70, 8), 2, 0.1, torch.float32)
    first, again = (run(name, problem_of(130, 65, JAN), sources, targets) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert all(torch.equal(a, b) for a, b in zip(first[2], again[2], strict=True))


def test_the_smallest_and_the_widest():
    sources, targets = layers(6, (5000,), 1), layers(5, (5000,), 2, 0.1)
    problem = problem_of(6, 5, JAN[:1])
    for name in ("small32", "small64", "blocks"):
        check(run(name, problem, sources, targets, dtype=torch.float64), exact(problem, sources, targets), 1e-12)


def test_more_gaussians_than_a_launch_can_carry():
    many = tuple(Gaussian(multipliers=tuple(1 + 0.1 * q for q in range(60))) for _ in range(3))
    sources, targets = layers(5, (4, 4, 4), 1), layers(5, (4, 4, 4), 2)
    with pytest.raises(ValueError, match="128 Gaussians"):
        run("small32", problem_of(5, 5, many), sources, targets)
