"""Shared by the core's tests: random layers, a plain torch yardstick, and the error rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian, dispatch
from fastmmd.backends import triton
from fastmmd.call import Call, Form
from fastmmd.problem import Objective

# The fast backends of CPU tensors; one that this installation lacks is skipped with its reason. Where Triton interprets
# its kernels, or those of CUDA are built for the CPU, they are what is tested.
_cpu_reason, _cuda_reason = (dispatch.unavailable(name, torch.device("cpu")) for name in ("cpu", "cuda"))
_cpu = pytest.mark.skipif(_cpu_reason is not None, reason=f"backend cpu: {_cpu_reason}")
if triton.interpreted():
    FAST = ["triton"]
elif _cuda_reason is None:
    FAST = ["cuda"]
else:
    FAST = [pytest.param("cpu", marks=_cpu), "torch"]
JAN = (Gaussian(), Gaussian(1.68, (1,)))


def layers(
    n: int, dims: Sequence[int], seed: int = 0, shift: float = 0.0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """One [n, d] leaf per layer: normal features, and softmax outputs for every second layer."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for index, dim in enumerate(dims):
        x = torch.randn(n, dim, generator=generator, dtype=torch.float64) + shift
        x = x.softmax(1) if index % 2 else x
        out.append(x.to(dtype).requires_grad_())
    return out


def call_of(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    *,
    joint: float = 1.0,
    marginal: Sequence[float] | None = None,
    estimator: str = "biased",
    bandwidths: Tensor | None = None,
    needs_grad: Sequence[bool] | None = None,
    precision: str | None = "ieee",
    form: Form | None = None,
    clamp: bool = True,
) -> Call:
    """What a backend is asked to compute: all gradients and no marginal term unless said otherwise."""
    marginal = (0.0,) * len(kernels) if marginal is None else tuple(marginal)
    static = tuple(kernel.static for kernel in kernels)
    objective = Objective(static, joint, marginal, estimator, form is not None, clamp)
    return Call(
        problem=objective.problem(len(sources[0]), len(targets[0])),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=(True,) * (2 * len(sources)) if needs_grad is None else needs_grad,
        precision=precision,
        form=form,
    )


class Result(NamedTuple):
    loss: Tensor
    joint: Tensor
    marginals: Tensor
    bandwidths: Tensor
    gradients: list[Tensor]


def evaluate(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian] = JAN,
    dtype: torch.dtype | None = None,
    **options: object,
) -> Result:
    """The discrepancy and its gradients at a copy of the inputs, in `dtype`."""
    sources = [x.detach().to(dtype or x.dtype).requires_grad_() for x in sources]
    targets = [x.detach().to(dtype or x.dtype).requires_grad_() for x in targets]
    parts = fastmmd.discrepancy(sources, targets, kernels, **options)  # type: ignore[arg-type]
    return Result(*parts, list(torch.autograd.grad(parts.loss, [*sources, *targets])))


def plain(
    sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Sequence[float], kernels: Sequence[Gaussian]
) -> tuple[Tensor, list[Tensor]]:
    """The biased JMMD in ordinary torch at the inputs' precision: a centred Gram expansion and autograd. What a careful
    user would write, hence the yardstick for round-off."""
    sources = [x.detach().clone().requires_grad_() for x in sources]
    targets = [x.detach().clone().requires_grad_() for x in targets]
    n = len(sources[0])
    product = plain_kernel(sources, targets, bandwidths, kernels)
    loss = product[:n, :n].mean() + product[n:, n:].mean() - 2 * product[:n, n:].mean()
    return loss, list(torch.autograd.grad(loss, [*sources, *targets]))


def plain_kernel(
    sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Sequence[float], kernels: Sequence[Gaussian]
) -> Tensor:
    """The kernel matrix of `plain`: the product of all layers'."""
    product = torch.ones((), dtype=sources[0].dtype)
    for source, target, bandwidth, kernel in zip(sources, targets, bandwidths, kernels, strict=True):
        z = torch.cat([source, target])
        z = z - z.mean(0)
        norms = z.square().sum(1)
        distances = (norms[:, None] + norms[None, :] - 2 * z @ z.T).clamp(min=0)
        product = product * sum(torch.exp(-distances / (m * bandwidth)) for m in kernel.multipliers)
    return product


def relative(value: Tensor, exact: Tensor) -> float:
    """Norm of the error over the norm of the exact value."""
    exact = exact.double()
    return ((value.double() - exact).norm() / exact.norm().clamp(min=1e-300)).item()


def dense_kernel(
    layers: Sequence[Tensor], kernels: Sequence[Gaussian], joint: float = 1.0, marginal: Sequence[float] | None = None
) -> Tensor:
    """``joint * product of all layers' kernels + sum_l marginal[l] * kernel of layer l``, ``[N, N]`` in fp64 from
    differences, Gaussian by Gaussian; differentiable. The truth where pairs have weights, apart from the project's own
    reference."""
    terms = []
    for layer, kernel in zip(layers, kernels, strict=True):
        z = layer.double()
        distances = (z[:, None] - z[None, :]).square().sum(-1)
        bandwidth = _bandwidth(kernel, distances)
        gaussians = zip(kernel.weights, kernel.multipliers, strict=True)
        terms.append(sum(weight * torch.exp(-distances / (m * bandwidth)) for weight, m in gaussians))
    total = joint * torch.stack(terms).prod(0)
    for weight, term in zip(marginal or (0.0,) * len(terms), terms, strict=True):
        total = total + weight * term
    return total


def _bandwidth(kernel: Gaussian, distances: Tensor) -> Tensor | float:
    if not isinstance(kernel.bandwidth, str):
        return kernel.bandwidth
    n = len(distances)
    if kernel.bandwidth == "median":
        return distances[~torch.eye(n, dtype=torch.bool)].median().detach()
    mean = distances.sum() / (n * n if kernel.bandwidth == "mean_all" else n * (n - 1))
    return mean.detach() if kernel.detach_bandwidth else mean


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag(matrix.diagonal())


def dense_weighted_mmd(kernel: Tensor, source_weights: Tensor, target_weights: Tensor, estimator: str) -> Tensor:
    """The squared MMD of rows with weights from their kernel matrix, sources first, one expectation after another."""
    n = len(source_weights)
    sides = [weights.double() / weights.double().sum() for weights in (source_weights, target_weights)]
    a, b = sides
    blocks = [kernel[:n, :n], kernel[n:, n:]]
    within = kernel.new_zeros(())
    for weights, block in zip(sides, blocks, strict=True):
        pairs = torch.outer(weights, weights)
        if estimator == "unbiased":
            pairs = off_diagonal(pairs)
            pairs = pairs / pairs.sum()
        within = within + (pairs * block).sum()
    return within - 2 * torch.einsum("i,ij,j->", a, kernel[:n, n:], b)
