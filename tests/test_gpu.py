"""On a CUDA device: ``pytest -m gpu``. Values and gradients of every backend and route, and how they behave there.

Few shapes, since each set of compile-time constants is compiled: sizes of batches are none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import fastmmd
from bench import measure, values
from bench.cases import Case
from bench.gate import reference
from bench.values import backend_of, taking
from fastmmd import Gaussian, conditioning, dispatch, median
from fastmmd.backends import cuda
from fastmmd.problem import make_problem
from tests.helpers import JAN, layers, relative

table = pytest.importorskip("fastmmd.kernels.table", reason="needs Triton")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)
_reason = cuda.unavailable(DEVICE) if torch.cuda.is_available() else "no CUDA device"
WITH_CUDA = pytest.mark.skipif(_reason is not None, reason=f"backend cuda: {_reason}")
BACKENDS = ["triton", pytest.param("cuda", marks=WITH_CUDA), "torch"]
DIMS = (70, 8)
CONFIGS = values.configs()
ROUTES = [pytest.param(name, marks=WITH_CUDA if name.startswith("cuda") else ()) for name in CONFIGS]
# Rows of source and target, dims, precision: as the tables send them.
NATURAL = {
    "small": (64, 60, (256, 31), "ieee"),
    "tiles": (2100, 2050, (256, 8), "bf16"),
    "blocks": (1000, 257, DIMS, "ieee"),
}
TOLERANCES = {torch.float64: 1e-11, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.fixture(autouse=True)
def no_test_behind_a_dead_device() -> Iterator[None]:
    """A kernel's fault fails whatever follows it in a process. pytest-xdist starts another one."""
    yield
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_available() and not measure.usable(DEVICE):
        os._exit(3)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Deterministic algorithms fill new memory with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def pair(
    n: int, m: int, dims: Sequence[int] = DIMS, dtype: torch.dtype = torch.float32, shift: float = 0.3
) -> tuple[list[Tensor], list[Tensor]]:
    """Sources and targets on the device, leaves that need gradients."""
    sides = layers(n, dims, 1, dtype=dtype), layers(m, dims, 2, shift, dtype)
    return tuple([x.detach().to(DEVICE).requires_grad_() for x in side] for side in sides)


def run(sources, targets, kernels=JAN, **options) -> list[Tensor]:
    """The loss, the report's values and bandwidths, and the gradients: scaled as mixed-precision training scales them,
    so that fp16 can hold them."""
    parts = fastmmd.discrepancy(sources, targets, kernels, **options)
    inputs = [*sources, *targets]
    gradients = torch.autograd.grad(parts.loss, inputs, torch.full_like(parts.loss, scale_of(sources, targets)))
    return [*(x.detach() for x in parts), *gradients]


def scale_of(sources, targets) -> float:
    return float(min(len(sources[0]), len(targets[0])))


def exact(sources, targets, kernels=JAN, **options) -> list[Tensor]:
    """The same, dense and in fp64."""
    wide = [[x.detach().double().requires_grad_() for x in side] for side in (sources, targets)]
    return run(*wide, kernels, backend="reference", **options)


def check(
    results: Sequence[Tensor], truth: Sequence[Tensor], tolerance: float, of_gradients: float | None = None
) -> None:
    """Values: absolute, kernels are of size 1 (a few for mixtures). Gradients: relative to their norm."""
    for result, expected in zip(results[:4], truth[:4], strict=True):
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    for result, expected in zip(results[4:], truth[4:], strict=True):
        assert relative(result, expected) < (of_gradients or tolerance)


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 31), (33, 31), (64, 64), (257, 64), (257, 1000)])
def test_values_and_gradients(backend, dtype, n, m):
    sources, targets = pair(n, m, dtype=dtype)
    results = run(sources, targets, marginal=(0.3, 0.1), backend=backend, precision="ieee")
    assert [g.dtype for g in results[4:]] == [dtype] * 4
    tolerance = min(TOLERANCES[dtype], 5e-6)  # half-precision inputs are computed in fp32
    check(results, exact(sources, targets, marginal=(0.3, 0.1)), tolerance, TOLERANCES[dtype])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("n", "m"), [(1, 2), (33, 64), (257, 64)])
@pytest.mark.parametrize("format", ["ieee", "tf32"])
def test_every_route(route, n, m, format):
    sources, targets = pair(n, m)
    with taking(route):
        results = run(sources, targets, marginal=(0.3, 0.1), backend=backend_of(route), precision=format)
    tolerance = 5e-6 if format == "ieee" else 5e-3
    check(results, exact(sources, targets, marginal=(0.3, 0.1)), tolerance)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("route", NATURAL)
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_every_route_as_the_table_takes_it(backend, route):
    n, m, dims, precision = NATURAL[route]
    if backend == "cuda":
        line = cuda.line(n + m, dims, precision, cuda._shared_memory(DEVICE))
    else:
        line = table.line("nvidia", n + m, dims, table.product_format("nvidia", precision, torch.float32))
    assert type(line.config) is type(CONFIGS[f"{backend}-{route}"])
    sources, targets = pair(n, m, dims)
    results = run(sources, targets, backend=backend, precision=precision)
    # In blocks: the dense reference would need N x N x d elements.
    loss, gradients = reference(Case(route, n, m, dims, JAN), sources, targets, torch.float64)
    tolerance = 2e-2 if precision == "bf16" else 5e-6
    assert results[0].item() == pytest.approx(loss.item(), abs=0.2 * tolerance)
    for gradient, expected in zip(results[4:], gradients, strict=True):
        assert relative(gradient, scale_of(sources, targets) * expected) < tolerance


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", range(1, 9))
def test_layer_counts(backend, count):
    dims = (20, 3, 17, 64, 33, 2, 7, 1)[:count]
    kernels = tuple(Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 1 + count))
    sources, targets = pair(40, 33, dims)
    results = run(sources, targets, kernels, marginal=0.1, backend=backend, precision="ieee")
    check(results, exact(sources, targets, kernels, marginal=0.1), 1e-5 * 2**count, 2e-5)  # sums of up to 2^L


# The least error that a format allows (a smaller one would mean that it was not used) and the most.
@pytest.mark.parametrize("route", [*ROUTES, "torch"])
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32", "bf16"])
def test_a_precision_shows_its_error_and_no_more(route, precision):
    shown = precision
    if "cuda-small" in route:  # few rows: fp32 costs nothing
        shown = "ieee"
    elif route in ("torch", "triton-blocks", "cuda-blocks"):  # the library multiplies fp32 operands as fp32 or TF32
        shown = {"tf32x3": "ieee", "bf16": "tf32"}.get(precision, precision)
    least, most = {"ieee": (0, 2e-6), "tf32x3": (0, 5e-6), "tf32": (5e-5, 3e-3), "bf16": (1e-3, 2e-2)}[shown]
    sources, targets = pair(64, 40, (128, 8))
    truth = exact(sources, targets)
    with taking(route):
        results = run(sources, targets, backend=backend_of(route), precision=precision)
    for gradient, expected in zip(results[4:], truth[4:], strict=True):
        assert relative(gradient, expected) <= most
    assert least <= relative(results[4], truth[4])


@WITH_CUDA
def test_fp16_inputs_are_multiplied_as_fp16():
    sources, targets = pair(2100, 2050, (128,), torch.float16)
    results = run(sources, targets, JAN[:1], backend="cuda", precision="tf32")
    check(results, exact(sources, targets, JAN[:1]), 1e-4, 3e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [(1,), (5000,)])
def test_narrow_and_wide_layers(backend, dims):
    sources, targets = pair(40, 33, dims)
    check(run(sources, targets, JAN[:1], backend=backend, precision="ieee"), exact(sources, targets, JAN[:1]), 5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_larger_tensors(backend):
    sources, targets = pair(64, 40)
    expected = run(sources, targets, backend=backend, precision="ieee")
    inside = []
    for side in (sources, targets):
        inside.append([])
        for x in side:
            buffer = torch.full((len(x) + 5, x.shape[1] + 7), torch.nan, device=DEVICE)
            buffer[2:-3, 3:-4] = x.detach()
            inside[-1].append(buffer[2:-3, 3:-4].requires_grad_())
    results = run(*inside, backend=backend, precision="ieee")
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_nan_and_infinity_are_not_hidden(backend, bad, precision):
    sources, targets = pair(64, 40)
    with torch.no_grad():
        sources[0][3, 2] = bad
    results = run(sources, targets, backend=backend, precision=precision)
    assert results[0].isnan()
    assert results[4].isnan().any()


# Determinism, streams, graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", NATURAL)
def test_twenty_runs_give_the_same_bits(backend, route):
    n, m, dims, precision = NATURAL[route]
    sources, targets = pair(n, m, dims)
    first = run(sources, targets, backend=backend, precision=precision)
    for _ in range(19):
        again = run(sources, targets, backend=backend, precision=precision)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", NATURAL)
def test_two_streams_at_once_give_the_same_bits(backend, route):
    n, m, dims, precision = NATURAL[route]
    sources, targets = pair(n, m, dims)
    alone = run(sources, targets, backend=backend, precision=precision)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    runs = []
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                runs.append(run(sources, targets, backend=backend, precision=precision))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for results in runs for a, b in zip(results, alone, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", NATURAL)
def test_a_side_stream_is_followed(backend, route):
    """The inputs are written late, in the stream of the call. Whoever computes in another one reads NaN."""
    n, m, dims, precision = NATURAL[route]
    sources, targets = pair(n, m, dims)
    expected = run(sources, targets, backend=backend, precision=precision)
    late = [[torch.full_like(x, torch.nan) for x in side] for side in (sources, targets)]
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
        for empty, side in zip(late, (sources, targets), strict=True):
            for x, y in zip(empty, side, strict=True):
                x.copy_(y.detach())
                x.requires_grad_()
        results = run(*late, backend=backend, precision=precision)
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", NATURAL)
def test_cuda_graph_of_forward_and_backward(backend, route):
    """Replayed with other inputs, several times: nothing of the captured ones is kept."""
    n, m, dims, precision = NATURAL[route]
    sources, targets = pair(n, m, dims)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(sources, targets, backend=backend, precision=precision)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(sources, targets, backend=backend, precision=precision)
    for factor in (1.5, 0.7, 1.0):
        with torch.no_grad():
            for x in (*sources, *targets):
                x.mul_(factor)
        graph.replay()
        torch.cuda.synchronize()
        expected = run(sources, targets, backend=backend, precision=precision)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("n", [64, int(median.BLOCK_ELEMENTS**0.5)], ids=["one block", "streaming"])
@pytest.mark.parametrize("rule", ["median", 20.0])
def test_cuda_graph_of_other_bandwidths(n, rule):
    sources, targets = pair(n, n, (20,))
    kernels = (Gaussian(rule),)
    run(sources, targets, kernels, backend="torch")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(sources, targets, kernels, backend="torch")
    with torch.no_grad():
        sources[0].mul_(1.5)
    graph.replay()
    torch.cuda.synchronize()
    expected = run(sources, targets, kernels, backend="torch")
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("n", [100, int(median.BLOCK_ELEMENTS**0.5)], ids=["one block", "streaming"])
def test_median_beside_a_far_row(n):
    sources, targets = pair(n, n, (20,))
    with torch.no_grad():
        sources[0][0] = 1e6
    results = run(sources, targets, (Gaussian("median"),), backend="torch", precision="ieee")
    distances = torch.pdist(torch.cat([sources[0], targets[0]]).detach().double().cpu()).square()
    middle = distances.kthvalue((len(distances) + 1) // 2).values
    assert results[3].item() == pytest.approx(middle.item(), rel=1e-5)
    if n == 100:
        check(results, exact(sources, targets, (Gaussian("median"),)), 5e-6, 1e-5)


@pytest.fixture
def unwatched(monkeypatch):
    """As in a new process: nothing measured and nothing said."""
    monkeypatch.setattr(conditioning, "_said", set())
    conditioning._watch_of.cache_clear()
    conditioning._by_problem.clear()


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_bandwidth_far_below_the_data_is_said(backend):
    sources, targets = pair(300, 300, (20,))
    with torch.no_grad():
        for x in (*sources, *targets):
            x[::2] += 1e4

    def several_calls() -> None:
        for _ in range(3):
            run(sources, targets, (Gaussian(1.0),), backend=backend)
            torch.cuda.synchronize()

    with pytest.warns(UserWarning, match="far below the data's size"):
        several_calls()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_waits_for_the_device(backend):
    kernels = (Gaussian("median"), Gaussian(detach_bandwidth=False))
    # Few rows, many, and so many that the median is taken in several blocks.
    sizes = [pair(n, n, (20, 8)) for n in (64, 300, int(median.BLOCK_ELEMENTS**0.5))]

    def everything() -> None:
        for estimator in ("biased", "unbiased", "linear"):
            for sides in sizes:
                run(*sides, kernels, estimator=estimator, backend=backend)
                run(*sides, (Gaussian(20.0), JAN[1]), estimator=estimator, backend=backend)
                run(*sides, estimator=estimator, backend=backend)

    everything()  # what is compiled or set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Around it -----------------------------------------------------------------------------------------------------------


def test_what_auto_takes():
    few, many = (make_problem(n, n, (JAN[0].static,), 1.0, (0.0,), "biased") for n in (64, 5000))
    assert dispatch.choose("auto", DEVICE, few) == ("triton" if _reason else "cuda")
    assert dispatch.choose("auto", DEVICE, many) == "triton"
    assert fastmmd.build_info()["backends"]["triton"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_with_fullgraph(backend):
    sources, targets = pair(64, 40)

    def step(sources, targets):
        return 2 * fastmmd.jmmd(sources, targets, backend=backend, precision="ieee")

    inputs = [*sources, *targets]
    plain = step(sources, targets)
    compiled = torch.compile(step, fullgraph=True)(sources, targets)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(torch.autograd.grad(compiled, inputs), torch.autograd.grad(plain, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [64, 300])
def test_autocast_changes_nothing(backend, n):
    sources, targets = pair(n, 40)
    expected = run(sources, targets, backend=backend, precision="ieee")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        results = run(sources, targets, backend=backend, precision="ieee")
    assert results[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_of_autocast_beside_probabilities(backend):
    """What a network under autocast hands over: bf16 features, fp32 softmax outputs."""
    (f, p), (g, q) = pair(64, 40)
    sources, targets = ([f.detach().bfloat16().requires_grad_(), p], [g.detach().bfloat16().requires_grad_(), q])
    results = run(sources, targets, backend=backend, precision="ieee")
    check(results, exact(sources, targets), 5e-6, TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_is_torchs_error_and_leaves_no_damage(backend):
    few = pair(64, 40)
    expected = run(*few, backend=backend)
    many = [[torch.randn(20_000, 256, device=DEVICE, requires_grad=True)] for _ in range(2)]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total, DEVICE)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            run(*many, JAN[:1], backend=backend)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    again = run(*few, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [64, 300])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_device_that_is_not_the_current_one(backend, n):
    here = pair(n, 40)
    there = [[x.detach().to("cuda:1").requires_grad_() for x in side] for side in here]
    results, expected = run(*there, backend=backend), run(*here, backend=backend)
    assert all(x.device == torch.device("cuda:1") for x in results)
    assert torch.cuda.current_device() == 0
    check([x.to(DEVICE) for x in results], [x.double() for x in expected], 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_memory_of_131072_rows(backend, precision):
    """One Gram matrix would be 64 GiB."""
    sources, targets = ([torch.randn(65536, 256, device=DEVICE, requires_grad=True)] for _ in range(2))
    options = {"backend": backend, "precision": precision}
    run([sources[0][:5000]], [targets[0][:5000]], JAN[:1], **options)  # the libraries' own workspaces
    peak = measure.peak_bytes(lambda: run(sources, targets, JAN[:1], **options), DEVICE)
    assert peak - sources[0].nbytes - targets[0].nbytes < 2**31


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("gradient", [True, False])
def test_sanitizer_case(route, gradient):
    """Small and ragged, for compute-sanitizer: ``-k sanitizer``."""
    sources, targets = pair(33, 70, (37, 5))
    with taking(route), torch.set_grad_enabled(gradient):
        loss = fastmmd.jmmd(sources, targets, backend=backend_of(route), precision="ieee")
        results = torch.autograd.grad(loss, [*sources, *targets]) if gradient else [loss]
    torch.cuda.synchronize()
    assert all(x.isfinite().all() for x in results)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("backend", BACKENDS[:2])
@pytest.mark.parametrize("gradient", [True, False])
def test_small_problems_take_two_launches(backend, gradient):
    sources, targets = pair(64, 64, (256, 31))

    def loss() -> Tensor:
        with torch.set_grad_enabled(gradient):
            return fastmmd.jmmd(sources, targets, backend=backend)

    loss()
    count = measure.launches(loss)
    if count == 0:
        pytest.skip("the profiler sees no kernels on this machine")
    assert count <= 2
