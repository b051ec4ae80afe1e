"""Inputs on a CUDA device, and what a backend or one of its routes computes from them, beside fp64.

Few shapes, since each set of compile-time constants is compiled anew: sizes of batches are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import fastmmd
from bench import routes
from fastmmd import Gaussian, autograd, median
from fastmmd.backends import cuda
from fastmmd.call import Call, Form
from tests.helpers import JAN, call_of, layers, relative

pytest.importorskip("fastmmd.kernels.launch_rules", reason="needs Triton")

DEVICE = torch.device("cuda", 0)
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA_ABSENT = cuda.unavailable(DEVICE) if torch.cuda.is_available() else "no CUDA device"
WITH_CUDA = pytest.mark.skipif(CUDA_ABSENT is not None, reason=f"backend cuda: {CUDA_ABSENT}")
GPU_BACKENDS = ["triton", pytest.param("cuda", marks=WITH_CUDA)]
BACKENDS = [*GPU_BACKENDS, "torch"]
CONFIGS = routes.configs()
NAMED_CONFIGS = [pytest.param(name, marks=WITH_CUDA if name.startswith("cuda") else ()) for name in CONFIGS]
# The routes that take weights of pairs.
NAMED_CONFIGS_OF_FORMS = [
    pytest.param(name, marks=WITH_CUDA if name.startswith("cuda") else ())
    for name, config in CONFIGS.items()
    if (routes.backend_of(config), routes.route_of(config))
    in (("cuda", "small"), ("triton", "fused"), ("triton", "gemm"))
]
DIMS = (70, 8)
STREAMING_ROWS = int(median.TILE_ELEMENTS**0.5)  # of each side: the median is taken over several tiles of distances
# Rows of source and target, dims, precision: as the launch rules send them to each route.
TYPICAL = {
    "small": (64, 60, (256, 31), "ieee"),
    "fused": (2100, 2050, (256, 8), "bf16"),
    "gemm": (1000, 257, DIMS, "ieee"),
}


def inputs(
    n: int, m: int, dims: Sequence[int] = DIMS, dtype: torch.dtype = torch.float32, shift: float = 0.3
) -> tuple[list[Tensor], list[Tensor]]:
    """Sources and targets on the device, leaves that require gradients."""
    return on_device(layers(n, dims, 1, dtype=dtype)), on_device(layers(m, dims, 2, shift, dtype))


def on_device(tensors: Sequence[Tensor], device: torch.device | str = DEVICE) -> list[Tensor]:
    return [x.detach().to(device).requires_grad_() for x in tensors]


def run(
    sources: Sequence[Tensor], targets: Sequence[Tensor], kernels: Sequence[Gaussian] = JAN, **options: object
) -> list[Tensor]:
    """The loss, the joint value, those of the layers, the bandwidths, and the gradients: scaled as mixed-precision
    training scales them, so that fp16 can hold them."""
    terms = fastmmd.discrepancy(sources, targets, kernels, **options)  # type: ignore[arg-type]
    return [*(x.detach() for x in terms), *scaled_gradients(terms.loss, sources, targets)]


def run_config(
    name: str, sources: Sequence[Tensor], targets: Sequence[Tensor], marginal: Sequence[float], precision: str
) -> list[Tensor]:
    """As `run`, by a config of bench/routes.py; the name of a backend alone stands for what its launch rules choose."""
    call = call_of(sources, targets, JAN, marginal=marginal, precision=precision)
    loss, statistics, _ = autograd.evaluate(call, routes.backend_of_name(name), CONFIGS.get(name))
    values = [loss.detach(), statistics[0], statistics[1:3], statistics[3:]]
    return [*values, *scaled_gradients(loss, sources, targets)]


def call_with_form(n: int, m: int, columns: int) -> Call:
    """W and A of either sign, K W wanted, all gradients."""
    generator = torch.Generator().manual_seed(columns)
    w = torch.randn(n + m, columns, generator=generator) / (n + m)
    a = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    form = Form(w.to(DEVICE), ((a + a.T) / columns).to(DEVICE), needs_rows=True)
    sources, targets = inputs(n, m)
    return call_of(sources, targets, JAN, marginal=(0.3, 0.1), form=form, clamp=False)


def scaled_gradients(loss: Tensor, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, ...]:
    scale = torch.full_like(loss, gradient_scale(sources, targets))
    return torch.autograd.grad(loss, [*sources, *targets], scale)


def gradient_scale(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    return float(min(len(sources[0]), len(targets[0])))


def exact(
    sources: Sequence[Tensor], targets: Sequence[Tensor], kernels: Sequence[Gaussian] = JAN, **options: object
) -> list[Tensor]:
    """What `run` returns, dense and in fp64."""
    wide = [[x.detach().double().requires_grad_() for x in side] for side in (sources, targets)]
    return run(wide[0], wide[1], kernels, backend="reference", **options)


def check(
    results: Sequence[Tensor], truth: Sequence[Tensor], tolerance: float, gradient_tolerance: float | None = None
) -> None:
    """Values: absolute, kernels are of size 1 (a few for mixtures). Gradients: relative to their norm."""
    for value, expected in zip(results[:4], truth[:4], strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    for gradient, expected in zip(results[4:], truth[4:], strict=True):
        assert relative(gradient, expected) < (gradient_tolerance or tolerance)


def same_bits(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
