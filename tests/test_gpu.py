"""On a CUDA device: what runs there today is backend "torch"."""

import pytest
import torch

import fastmmd
from fastmmd import Gaussian
from tests.helpers import JAN, evaluate, layers, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def on_gpu(xs):
    return [x.detach().cuda() for x in xs]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches_the_cpu_reference(dtype):
    sources, targets = layers(60, (70, 8), 0, dtype=dtype), layers(45, (70, 8), 1, 0.3, dtype=dtype)
    exact = evaluate(sources, targets, JAN, torch.float64, backend="reference")
    found = evaluate(on_gpu(sources), on_gpu(targets), JAN, precision="ieee")
    tolerance = {torch.float64: 1e-11, torch.float32: 5e-6}.get(dtype, 1e-2)
    assert found.loss.item() == pytest.approx(exact.loss.item(), abs=min(tolerance, 5e-6))
    for mine, truth in zip(found.gradients, exact.gradients, strict=True):
        assert relative(mine.cpu(), truth) < tolerance


def test_nothing_waits_for_the_device():
    sources, targets = on_gpu(layers(300, (20, 8), 0)), on_gpu(layers(300, (20, 8), 1))
    kernels = (Gaussian("median"), Gaussian(detach_bandwidth=False))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for estimator in ("biased", "linear"):
            evaluate(sources, targets, kernels, estimator=estimator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tf32_shows_its_error_and_ieee_does_not():
    sources, targets = layers(64, (256,), 0, dtype=torch.float32), layers(64, (256,), 1, 0.3, torch.float32)
    exact = evaluate(sources, targets, JAN[:1], torch.float64, backend="reference")
    errors = {}
    for precision in ("ieee", "tf32"):
        found = evaluate(on_gpu(sources), on_gpu(targets), JAN[:1], precision=precision)
        errors[precision] = relative(found.gradients[0].cpu(), exact.gradients[0])
    assert errors["ieee"] < 1e-5 < errors["tf32"] < 1e-2


def test_graph_capture():
    source, target = (x.cuda() for x in (torch.randn(64, 32), torch.randn(64, 32)))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        fastmmd.mmd(source, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = fastmmd.mmd(source, target)
    source.add_(1)
    graph.replay()
    torch.testing.assert_close(loss, fastmmd.mmd(source, target))
