"""Every backend against the dense reference in fp64: values, parts, bandwidths, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd import Gaussian, mmd
from fastmmd.backends import cpu, torch_tiles
from tests.helpers import FAST, JAN, Result, call_of, evaluate, layers, plain, relative

SIZES = [(1, 1), (1, 2), (2, 2), (31, 33), (33, 31), (32, 32), (36, 12), (5, 257), (257, 64)]
KERNEL_SETS = [
    (Gaussian(),),
    JAN,
    (Gaussian("mean_all", (3, 1, 0.5), (0.2, 2, 0)), Gaussian("median", (1, 2)), Gaussian(7.0, (1.5, 0.1))),
    tuple(Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 9)),
]


def assert_same(result, exact, tolerance):
    for name in ("loss", "joint", "marginals", "bandwidths"):
        torch.testing.assert_close(getattr(result, name).double(), getattr(exact, name), rtol=tolerance, atol=tolerance)
    for gradient, expected in zip(result.gradients, exact.gradients, strict=True):
        scale = max(expected.abs().max().item(), 1e-3)
        torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("kernels", KERNEL_SETS, ids=lambda k: f"{len(k)}layers")
def test_fp64_matches_reference(backend, n, m, kernels):
    dims = [1, 3, 17, 64, 33, 2, 7, 100][: len(kernels)]
    sources, targets = layers(n, dims, 1), layers(m, dims, 2, shift=0.5)
    weights = {"joint": 0.7, "marginal": [0.1 * (i + 1) for i in range(len(dims))]}
    for estimator in ("biased", "unbiased") if min(n, m) > 1 else ("biased",):
        exact = evaluate(sources, targets, kernels, estimator=estimator, backend="reference", **weights)
        result = evaluate(sources, targets, kernels, estimator=estimator, backend=backend, **weights)
        assert_same(result, exact, 1e-11)


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=40)
@given(data=st.data())
def test_any_problem_matches_reference(backend, data):
    n, m = data.draw(st.integers(1, 70), "n"), data.draw(st.integers(1, 70), "m")
    count = data.draw(st.integers(1, 4), "layers")
    dims = data.draw(st.lists(st.integers(1, 70), min_size=count, max_size=count), "dims")
    number = st.floats(0.05, 20)
    kernel = st.builds(
        Gaussian,
        st.one_of(st.sampled_from(["mean", "mean_all", "median"]), number),
        st.lists(st.one_of(number, st.sampled_from([0.25, 0.5, 1, 2, 4, 8])), min_size=1, max_size=7).map(tuple),
    )
    kernels = data.draw(st.lists(kernel, min_size=count, max_size=count), "kernels")
    joint = data.draw(st.floats(0, 2), "joint")
    marginal = data.draw(st.lists(st.floats(0, 2), min_size=count, max_size=count), "marginal")
    shift, seed = data.draw(st.floats(-3, 3), "shift"), data.draw(st.integers(0, 99), "seed")
    sources, targets = layers(n, dims, seed), layers(m, dims, seed + 100, shift)
    options = {"joint": joint, "marginal": marginal}
    exact = evaluate(sources, targets, kernels, backend="reference", **options)
    result = evaluate(sources, targets, kernels, backend=backend, **options)
    assert_same(result, exact, 1e-10)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shift", [0.3, 100.0])
@pytest.mark.parametrize(
    ("n", "m", "dims"), [(36, 36, (256, 31)), (64, 64, (2048,)), (130, 65, (70, 8)), (700, 500, (40, 5))]
)
def test_fp32_is_as_exact_as_careful_torch(backend, n, m, dims, shift):
    """Error against fp64 at most twice that of the same mathematics in plain fp32 torch (and a few ulps of 1)."""
    kernels = JAN[: len(dims)]
    source32 = layers(n, dims, 1, shift, torch.float32)
    target32 = layers(m, dims, 2, shift + 0.1, torch.float32)
    exact = evaluate(source32, target32, kernels, torch.float64, backend="torch")
    yardstick, yardstick_gradients = plain(source32, target32, exact.bandwidths.tolist(), kernels)
    result = evaluate(source32, target32, kernels, backend=backend)
    assert result.loss.dtype == torch.float32
    error, allowed = abs(result.loss.item() - exact.loss.item()), abs(yardstick.item() - exact.loss.item())
    assert error <= 2 * allowed + 5e-7
    for gradient, plain_gradient, truth in zip(result.gradients, yardstick_gradients, exact.gradients, strict=True):
        assert relative(gradient, truth) <= 2 * relative(plain_gradient, truth) + 2e-6


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [1.0, 1000.0])
def test_half_inputs_get_fp32_statistics(backend, dtype, norm):
    """Exact for the rounded inputs: features of norm 1000 overflow fp16 when squared."""
    sources, targets = layers(40, (64, 8), 1, dtype=dtype), layers(30, (64, 8), 2, 0.2, dtype=dtype)
    sources[0], targets[0] = ((x.detach() / 8 * norm).requires_grad_() for x in (sources[0], targets[0]))
    exact = evaluate(sources, targets, dtype=torch.float64, backend="reference")
    result = evaluate(sources, targets, backend=backend)
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(exact.loss.item(), abs=2e-6)
    for gradient, truth in zip(result.gradients, exact.gradients, strict=True):
        assert gradient.dtype == dtype
        rounded = relative(truth.to(dtype), truth)  # what storing the exact gradient in this dtype costs
        assert relative(gradient, truth) <= rounded + 1e-5


@pytest.mark.parametrize("backend", FAST)
def test_layers_of_different_dtypes(backend):
    """Under autocast features are half and probabilities fp32."""
    sources, targets = layers(12, (9, 4), 1), layers(10, (9, 4), 2)
    half = [[side[0].detach().bfloat16(), side[1].detach().float()] for side in (sources, targets)]
    exact = evaluate(*half, dtype=torch.float64, backend="reference")
    result = evaluate(*half, backend=backend)
    assert result.loss.item() == pytest.approx(exact.loss.item(), abs=1e-6)
    assert [g.dtype for g in result.gradients] == [torch.bfloat16, torch.float32] * 2


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dim", [1, 100_000])
def test_extreme_widths(backend, dim):
    sources, targets = layers(6, (dim,), 1), layers(5, (dim,), 2, 0.1)
    exact = evaluate(sources, targets, (Gaussian(),), backend="reference")
    assert_same(evaluate(sources, targets, (Gaussian(),), backend=backend), exact, 1e-11)
    narrow = evaluate(sources, targets, (Gaussian(),), torch.float32, backend=backend)
    assert_same(narrow, exact, 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_several_panels(backend):
    """More rows than one panel of any backend, odd sizes, both domains inside a block."""
    sources, targets = layers(1111, (20, 3), 1), layers(700, (20, 3), 2, 0.3)
    weights = {"joint": 0.2, "marginal": (0.3, 0.1)}
    exact = evaluate(sources, targets, backend="reference", **weights)
    assert_same(evaluate(sources, targets, backend=backend, **weights), exact, 1e-11)


def test_torch_tiles_that_do_not_fit_at_once():
    """The same with a workspace that forces ragged tiles, diagonal and not."""
    sources, targets = layers(150, (20, 3), 1), layers(101, (20, 3), 2, 0.3)
    exact = evaluate(sources, targets, backend="reference")
    config = torch_tiles.Config(workspace_bytes=600_000)
    loss, statistics, gradients, _ = torch_tiles.run(call_of(sources, targets, JAN), config)
    tiled = Result(loss, statistics[0], statistics[1:3], statistics[3:], gradients)
    assert_same(tiled, exact, 1e-11)


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs(backend):
    wide = torch.randn(40, 30, dtype=torch.float64)
    inputs = {
        "column slice": wide[:, 3:20],
        "row step": wide[::3, :17],
        "column-major": torch.randn(17, 30, dtype=torch.float64).T,
        "column step": wide[:, 2:19:2].repeat(1, 2)[:, :17],
        "expanded": wide[:1, :17].expand(9, 17),
        "expanded features": wide[:, :1].expand(40, 17),
        "negated": torch.randn(9, 17, dtype=torch.complex128).conj().imag,
        "negated column": torch.randn(9, 1, dtype=torch.complex128).conj().imag,
    }
    for name, view in inputs.items():
        other = torch.randn(11, view.shape[1], dtype=torch.float64) + 1
        for source, target in ((view, other), (other, view)):
            exact = evaluate([source.clone()], [target.clone()], (Gaussian(),), backend="reference")
            source, target = source.detach().requires_grad_(), target.detach().requires_grad_()
            loss = mmd(source, target, backend=backend)
            torch.testing.assert_close(loss, exact.loss, rtol=1e-12, atol=1e-12, msg=name)
            gradients = torch.autograd.grad(loss, (source, target))
            torch.testing.assert_close(gradients, tuple(exact.gradients), rtol=1e-10, atol=1e-12, msg=name)


def test_the_default_device_is_not_asked():
    """Under `torch.set_default_device` the kernels must still write to memory of the inputs' device."""
    source, target = torch.randn(9, 3, requires_grad=True), torch.randn(8, 3)
    for backend in ("auto", "torch"):
        expected = torch.autograd.grad(mmd(source, target, backend=backend), source)
        with torch.device("meta"):
            loss = mmd(source, target, backend=backend)
        torch.testing.assert_close(torch.autograd.grad(loss, source), expected)


@pytest.mark.parametrize("size", [1e-19, 1e-10, 1e10, 1e18])
def test_cpu_features_of_extreme_size(size):
    """Squares overflow or vanish in fp32; the mean rule makes the loss scale-free, so nothing may change."""
    pytest.importorskip("fastmmd._C")
    source, target = layers(40, (9,), 0, dtype=torch.float32)[0], layers(30, (9,), 1, 0.5, torch.float32)[0]
    usual = evaluate([source], [target], (Gaussian(),), backend="cpu")
    scaled = evaluate([source * size], [target * size], (Gaussian(),), backend="cpu")
    assert scaled.loss.item() == pytest.approx(usual.loss.item(), rel=1e-4)
    assert relative(scaled.gradients[0].double() * size, usual.gradients[0]) < 1e-4


def test_cpu_variants_agree():
    """Every instruction set that this machine has, fp32 and fp64."""
    compiled = pytest.importorskip("fastmmd._C")
    sources, targets = layers(70, (33, 5, 260), 1), layers(45, (33, 5, 260), 2, 0.3)
    kernels = (Gaussian(), Gaussian(1.68, (1,)), Gaussian(500.0, (0.1, 0.3, 0.6, 1.2)))
    exact = evaluate(sources, targets, kernels, joint=0.6, marginal=(0.1, 0.0, 0.2), backend="reference")
    for variant in range(len(compiled.cpu_variants())):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
            sides = ([x.detach().to(dtype) for x in side] for side in (sources, targets))
            call = call_of(*sides, kernels, joint=0.6, marginal=(0.1, 0.0, 0.2))
            loss, _, gradients, _ = cpu.run(call, cpu.Config(variant))
            assert loss.item() == pytest.approx(exact.loss.item(), abs=tolerance)
            for gradient, truth in zip(gradients, exact.gradients, strict=True):
                assert relative(gradient, truth) < 10 * tolerance
