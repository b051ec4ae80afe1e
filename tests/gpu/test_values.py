"""Values and gradients of every backend and route on a CUDA device, against the dense reference in fp64."""

from __future__ import annotations

import pytest
import torch

import fastmmd
from bench import routes
from bench.cases import Case
from bench.gate import reference
from fastmmd import Gaussian, dispatch
from fastmmd.backends import reference as reference_backend
from fastmmd.backends import triton
from fastmmd.backends.cuda import architecture
from fastmmd.backends.cuda import launch_rules as cuda_rules
from fastmmd.backends.products import library_format
from tests.gpu.helpers import (
    BACKENDS,
    CONFIGS,
    DEVICE,
    GPU_BACKENDS,
    NAMED_CONFIGS,
    NAMED_CONFIGS_OF_FORMS,
    NEEDS_GPU,
    STREAMING_ROWS,
    TYPICAL,
    WITH_CUDA,
    call_with_form,
    check,
    exact,
    gradient_scale,
    inputs,
    run,
    run_config,
    same_bits,
)
from tests.helpers import JAN, relative

pytestmark = NEEDS_GPU

TOLERANCES = {torch.float64: 1e-11, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 31), (33, 31), (64, 64), (257, 64), (257, 1000)])
def test_backend_is_right_at_every_dtype_and_size(backend, dtype, n, m):
    sources, targets = inputs(n, m, dtype=dtype)
    results = run(sources, targets, marginal=(0.3, 0.1), backend=backend, precision="ieee")
    assert [g.dtype for g in results[4:]] == [dtype] * 4
    tolerance = min(TOLERANCES[dtype], 5e-6)  # half-precision inputs are computed in fp32
    check(results, exact(sources, targets, marginal=(0.3, 0.1)), tolerance, TOLERANCES[dtype])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", NAMED_CONFIGS)
@pytest.mark.parametrize(("n", "m"), [(1, 2), (33, 64), (257, 64)])
@pytest.mark.parametrize(("precision", "tolerance"), [("ieee", 5e-6), ("tf32", 5e-3)])
def test_route_is_right_at_sizes_that_its_rules_would_not_send_there(name, n, m, precision, tolerance):
    sources, targets = inputs(n, m)
    results = run_config(name, sources, targets, marginal=(0.3, 0.1), precision=precision)
    check(results, exact(sources, targets, marginal=(0.3, 0.1)), tolerance)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", NAMED_CONFIGS_OF_FORMS)
@pytest.mark.parametrize(("n", "m"), [(33, 64), (200, 0)])
@pytest.mark.parametrize("columns", [2, 16])
def test_route_is_right_with_weights_of_pairs(name, n, m, columns):
    """The loss and its gradients, K W, and K W alone."""
    call = call_with_form(n, m, columns)
    form = call.form
    backend, config = dispatch.BACKENDS[routes.backend_of_name(name)], CONFIGS[name]
    wide = call._replace(sources=[x.double() for x in call.sources], targets=[x.double() for x in call.targets])
    truth, result = reference_backend.run(wide), backend.run(call, config)
    assert result.loss.item() == pytest.approx(truth.loss.item(), abs=5e-6)
    assert relative(result.rows, truth.rows) < 5e-6
    for gradient, expected in zip(result.gradients, truth.gradients, strict=True):
        assert relative(gradient, expected) < 1e-5
    alone = call._replace(form=form._replace(a=None), needs_grad=[False] * 4)
    assert relative(backend.run(alone, config).rows, truth.rows) < 5e-6


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("route", TYPICAL)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_launch_rules_send_a_typical_size_to_its_route_which_is_right(backend, route):
    n, m, dims, precision = TYPICAL[route]
    assert routes.route_of(chosen_config(backend, n + m, dims, precision)) == route
    sources, targets = inputs(n, m, dims)
    results = run(sources, targets, backend=backend, precision=precision)
    # Over panels of rows: the dense reference would need N x N x d elements.
    loss, gradients = reference(Case(route, n, m, dims, JAN), sources, targets, torch.float64)
    tolerance = 2e-2 if precision == "bf16" else 5e-6
    assert results[0].item() == pytest.approx(loss.item(), abs=0.2 * tolerance)
    for gradient, expected in zip(results[4:], gradients, strict=True):
        assert relative(gradient, gradient_scale(sources, targets) * expected) < tolerance


def chosen_config(backend, n, dims, precision):
    if backend == "cuda":
        return cuda_rules.choose(n, dims, precision, architecture.shared_memory(DEVICE)).config
    from fastmmd.kernels import launch_rules

    format = launch_rules.product_format("nvidia", precision, torch.float32)
    return launch_rules.choose("nvidia", triton.capability(DEVICE), n, dims, format).config


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", range(1, 9))
def test_backend_is_right_for_one_to_eight_layers(backend, count):
    dims = (20, 3, 17, 64, 33, 2, 7, 1)[:count]
    kernels = tuple(Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 1 + count))
    sources, targets = inputs(40, 33, dims)
    results = run(sources, targets, kernels, marginal=0.1, backend=backend, precision="ieee")
    check(results, exact(sources, targets, kernels, marginal=0.1), 1e-5 * 2**count, 2e-5)  # sums of up to 2^L


# Gradient errors: the least (a smaller one would mean that the format was not used) and the most that it allows.
TENSOR_CORES = {"ieee": (0, 2e-6), "tf32x3": (0, 5e-6), "tf32": (5e-5, 3e-3), "bf16": (1e-3, 2e-2)}
# A library has no tf32x3. torch's backend hands it fp32, which it multiplies as fp32 or TF32.
GEMM = {precision: TENSOR_CORES[library_format(DEVICE, precision)] for precision in TENSOR_CORES}
LIBRARY = GEMM | {"bf16": TENSOR_CORES["tf32"]}
# Few rows: fp32 costs nothing.
ALWAYS_FP32 = dict.fromkeys(TENSOR_CORES, TENSOR_CORES["ieee"])
ERRORS = {
    "torch": LIBRARY,
    "triton-gemm": GEMM,
    "cuda-gemm": GEMM,
    "cuda-small": ALWAYS_FP32,
    "cuda-small64": ALWAYS_FP32,
}


@pytest.mark.parametrize("name", [*NAMED_CONFIGS, "torch"])
@pytest.mark.parametrize("precision", TENSOR_CORES)
def test_precision_shows_its_error_and_no_more(name, precision):
    sources, targets = inputs(64, 40, (128, 8))
    results, truth = run_config(name, sources, targets, (0.0, 0.0), precision), exact(sources, targets)
    least, most = ERRORS.get(name, TENSOR_CORES)[precision]
    for gradient, expected in zip(results[4:], truth[4:], strict=True):
        assert relative(gradient, expected) <= most
    assert least <= relative(results[4], truth[4])


@WITH_CUDA
def test_fp16_inputs_are_multiplied_as_fp16():
    sources, targets = inputs(2100, 2050, (128,), torch.float16)
    results = run(sources, targets, JAN[:1], backend="cuda", precision="tf32")
    check(results, exact(sources, targets, JAN[:1]), 1e-4, 3e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [(1,), (5000,)])
def test_backend_is_right_for_one_feature_and_for_thousands(backend, dims):
    sources, targets = inputs(40, 33, dims)
    results = run(sources, targets, JAN[:1], backend=backend, precision="ieee")
    check(results, exact(sources, targets, JAN[:1]), 5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_inside_a_larger_tensor_give_the_same_bits_and_nothing_beside_them_is_read(backend):
    sources, targets = inputs(64, 40)
    expected = run(sources, targets, backend=backend, precision="ieee")
    results = run(inside_nan(sources), inside_nan(targets), backend=backend, precision="ieee")
    assert same_bits(results, expected)


def sample_weights(sources, targets, **options):
    weights = [1.0 + torch.arange(len(side[0]), device=DEVICE) % 7 for side in (sources, targets)]
    weighted = {"source_weights": weights[0], "target_weights": weights[1]}
    return fastmmd.jmmd(sources, targets, JAN, **weighted, **options)


def groups(sources, targets, **options):
    pooled = [torch.cat([source, target]) for source, target in zip(sources, targets, strict=True)]
    pairs = fastmmd.pairwise_mmd(pooled, torch.arange(len(pooled[0]), device=DEVICE) % 6, JAN, **options)
    return pairs.loss + 0 * pairs.values.sum()


def local(sources, targets, **options):
    labels = torch.arange(len(sources[0]), device=DEVICE) % 8
    return fastmmd.lmmd(sources, targets, labels, targets[1].detach(), JAN, **options)


def forms_of_40_columns(sources, targets, **options):
    n, m = len(sources[0]), len(targets[0])
    pooled = [torch.cat([source, target]) for source, target in zip(sources, targets, strict=True)]
    row, column = torch.arange(n + m, device=DEVICE)[:, None], torch.arange(40, device=DEVICE)
    w = torch.where((row * (column + 3)) % 5 < 2, 1 / n, -1 / m).to(pooled[0].dtype)
    return fastmmd.kernel_forms(pooled, JAN, w, **options).mean()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", [sample_weights, groups, local, forms_of_40_columns])
@pytest.mark.parametrize("route", TYPICAL)
def test_weights_of_pairs_are_right(backend, loss, route):
    """At the sizes that send a plain call to each route; the truth is backend "torch" in fp64."""
    n, m, dims, precision = TYPICAL[route]
    sources, targets = inputs(n, m, (dims[0], 8))
    wide = [[x.detach().double().requires_grad_() for x in side] for side in (sources, targets)]
    expected = loss(*wide, backend="torch")
    expected_gradients = torch.autograd.grad(expected, [*wide[0], *wide[1]])
    try:
        value = loss(sources, targets, backend=backend, precision=precision)
    except ValueError as error:
        pytest.skip(str(error))
    tolerance = 2e-2 if precision == "bf16" else 5e-6
    assert value.item() == pytest.approx(expected.item(), abs=0.2 * tolerance)
    gradients = torch.autograd.grad(value, [*sources, *targets])
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, expected_gradient) < tolerance


def inside_nan(tensors):
    """The same values as views of larger tensors full of NaN."""
    views = []
    for x in tensors:
        buffer = torch.full((len(x) + 5, x.shape[1] + 7), torch.nan, device=DEVICE)
        buffer[2:-3, 3:-4] = x.detach()
        views.append(buffer[2:-3, 3:-4].requires_grad_())
    return views


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_nan_and_infinity_are_not_hidden(backend, bad, precision):
    sources, targets = inputs(64, 40)
    with torch.no_grad():
        sources[0][3, 2] = bad
    results = run(sources, targets, backend=backend, precision=precision)
    assert results[0].isnan()
    assert results[4].isnan().any()


@pytest.mark.parametrize("n", [100, STREAMING_ROWS], ids=["one tile", "streaming"])
def test_median_is_exact_beside_a_far_row(n):
    sources, targets = inputs(n, n, (20,))
    with torch.no_grad():
        sources[0][0] = 1e6
    results = run(sources, targets, (Gaussian("median"),), backend="torch", precision="ieee")
    distances = torch.pdist(torch.cat([sources[0], targets[0]]).detach().double().cpu()).square()
    middle = distances.kthvalue((len(distances) + 1) // 2).values
    assert results[3].item() == pytest.approx(middle.item(), rel=1e-5)
    if n == 100:
        check(results, exact(sources, targets, (Gaussian("median"),)), 5e-6, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_features_beside_fp32_probabilities_are_right(backend):
    """What a network under autocast hands over."""
    sources, targets = inputs(64, 40)
    sources[0], targets[0] = (x.detach().bfloat16().requires_grad_() for x in (sources[0], targets[0]))
    results = run(sources, targets, backend=backend, precision="ieee")
    check(results, exact(sources, targets), 5e-6, TOLERANCES[torch.bfloat16])
