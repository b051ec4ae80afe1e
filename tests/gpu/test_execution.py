"""How kernels run on a CUDA device: the same bits each time, in any stream, in a CUDA graph, without waiting, in few
launches, on any device and in bounded memory."""

from __future__ import annotations

import pytest
import torch

import fastmmd
from bench import measure
from fastmmd import Gaussian
from tests.gpu.helpers import (
    BACKENDS,
    DEVICE,
    GPU_BACKENDS,
    NEEDS_GPU,
    STREAMING_ROWS,
    TYPICAL,
    check,
    inputs,
    on_device,
    run,
    same_bits,
)
from tests.helpers import JAN

pytestmark = NEEDS_GPU


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", TYPICAL)
def test_twenty_runs_give_the_same_bits(backend, route):
    n, m, dims, precision = TYPICAL[route]
    sources, targets = inputs(n, m, dims)
    first = run(sources, targets, backend=backend, precision=precision)
    for _ in range(19):
        assert same_bits(run(sources, targets, backend=backend, precision=precision), first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", TYPICAL)
def test_two_streams_at_once_give_the_same_bits(backend, route):
    n, m, dims, precision = TYPICAL[route]
    sources, targets = inputs(n, m, dims)
    alone = run(sources, targets, backend=backend, precision=precision)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    together = []
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                together.append(run(sources, targets, backend=backend, precision=precision))
    torch.cuda.synchronize()
    assert all(same_bits(results, alone) for results in together)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", TYPICAL)
def test_side_stream_is_followed(backend, route):
    """The inputs are written late, in the stream of the call: another stream would read NaN."""
    n, m, dims, precision = TYPICAL[route]
    sources, targets = inputs(n, m, dims)
    expected = run(sources, targets, backend=backend, precision=precision)
    late_sources, late_targets = ([torch.full_like(x, torch.nan) for x in side] for side in (sources, targets))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
        for late, x in zip((*late_sources, *late_targets), (*sources, *targets), strict=True):
            late.copy_(x.detach())
            late.requires_grad_()
        results = run(late_sources, late_targets, backend=backend, precision=precision)
    torch.cuda.synchronize()
    assert same_bits(results, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("route", TYPICAL)
def test_cuda_graph_keeps_nothing_of_the_inputs_that_it_was_captured_with(backend, route):
    """Forward and backward, replayed with other inputs several times."""
    n, m, dims, precision = TYPICAL[route]
    sources, targets = inputs(n, m, dims)
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
        assert same_bits(results, run(sources, targets, backend=backend, precision=precision))


@pytest.mark.parametrize("n", [64, STREAMING_ROWS], ids=["one tile", "streaming"])
@pytest.mark.parametrize("rule", ["median", 20.0])
def test_cuda_graph_follows_other_bandwidths(n, rule):
    sources, targets = inputs(n, n, (20,))
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
    assert same_bits(results, run(sources, targets, kernels, backend="torch"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_waits_for_the_device(backend):
    kernels = (Gaussian("median"), Gaussian(detach_bandwidth=False))
    sizes = [inputs(n, n, (20, 8)) for n in (64, 300, STREAMING_ROWS)]

    def everything() -> None:
        for estimator in ("biased", "unbiased", "linear"):
            for sources, targets in sizes:
                for mixtures in (kernels, (Gaussian(20.0), JAN[1]), JAN):
                    run(sources, targets, mixtures, estimator=estimator, backend=backend)

    everything()  # what is compiled or set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("gradient", [True, False])
def test_small_problems_take_two_launches(backend, gradient):
    sources, targets = inputs(64, 64, (256, 31))

    def loss() -> torch.Tensor:
        with torch.set_grad_enabled(gradient):
            return fastmmd.jmmd(sources, targets, backend=backend)

    loss()
    count = measure.launches(loss)
    if count == 0:
        pytest.skip("the profiler sees no kernels on this machine")
    assert count <= 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [64, 300])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_device_that_is_not_the_current_one_computes(backend, n):
    sources, targets = inputs(n, 40)
    expected = run(sources, targets, backend=backend)
    results = run(on_device(sources, "cuda:1"), on_device(targets, "cuda:1"), backend=backend)
    assert all(x.device == torch.device("cuda:1") for x in results)
    assert torch.cuda.current_device() == 0
    check([x.to(DEVICE) for x in results], [x.double() for x in expected], 5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_is_torchs_error_and_leaves_no_damage(backend):
    sources, targets = inputs(64, 40)
    expected = run(sources, targets, backend=backend)
    large_source, large_target = (torch.randn(20_000, 256, device=DEVICE, requires_grad=True) for _ in range(2))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total, DEVICE)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            run([large_source], [large_target], JAN[:1], backend=backend)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert same_bits(run(sources, targets, backend=backend), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_memory_of_131072_rows_stays_below_2_gib(backend, precision):
    """One Gram matrix would be 64 GiB."""
    source, target = (torch.randn(65536, 256, device=DEVICE, requires_grad=True) for _ in range(2))
    options = {"backend": backend, "precision": precision}
    run([source[:5000]], [target[:5000]], JAN[:1], **options)  # the libraries' own workspaces
    peak = measure.peak_bytes(lambda: run([source], [target], JAN[:1], **options), DEVICE)
    assert peak - source.nbytes - target.nbytes < 2**31
