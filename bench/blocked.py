"""The loss of a case with its gradient by hand, over blocks of rows of the Gram matrices: what a careful user writes.

It takes any N. In fp64 it is the gate's truth, in fp32 a competitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from bench.cases import Case, pooled
from fastmmd import Gaussian

BLOCK_ELEMENTS = 1 << 20  # of a matrix of a block: within a few percent of the fastest on CPUs, for any N and d
GPU_BLOCK_ELEMENTS = 1 << 24  # 64 MiB in fp32: long enough passes for a GPU, at ten such matrices


def centred(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
    """``[N, d]`` of each layer, sources first, around its mean: distances stay and rounding errors shrink."""
    layers = [z.detach() for z in pooled(sources, targets)]
    return [z - z.mean(0) for z in layers]


def resolve_bandwidths(case: Case, layers: Sequence[Tensor]) -> list[float]:
    """Each kernel's bandwidth: a number, or the mean squared distance in closed form.

    layers: centred, one of each copied row.
    """
    kernels = [kernel.static for kernel in case.kernels]
    return [
        _mean_distance(case, z) if kernel.rule == "mean" else kernel.number
        for z, kernel in zip(layers, kernels, strict=True)
    ]


def _mean_distance(case: Case, z: Tensor) -> float:
    if len(z) == case.n:
        return 2 * z.square().sum().item() / (case.n - 1)
    counts = torch.cat([z.new_full((n // copies,), copies) for n, copies in case.sides])
    z = z - counts @ z / case.n
    return 2 * (counts @ z.square().sum(1)).item() / (case.n - 1)


def discrepancy(
    case: Case,
    layers: Sequence[Tensor],
    bandwidths: Sequence[float],
    estimator: str = "biased",
    differentiate: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """The loss, summed in fp64, and its gradient with respect to each of the centred `layers` (if asked for)."""
    total = torch.zeros((), dtype=torch.float64, device=layers[0].device)
    gradients = [torch.zeros_like(z) for z in layers] if differentiate else []
    norms = [z.square().sum(1) for z in layers]
    elements = GPU_BLOCK_ELEMENTS if total.is_cuda else BLOCK_ELEMENTS
    height = max(1, elements // case.n)
    for first in range(0, case.n, height):
        rows, columns = slice(first, min(case.n, first + height)), slice(first, case.n)
        weights = _pair_weights(case, rows, estimator, layers[0])
        matrices, slopes = [], []
        for z, norm, kernel, bandwidth in zip(layers, norms, case.kernels, bandwidths, strict=True):
            squared = torch.addmm(norm[rows, None] + norm[columns], z[rows], z[columns].T, alpha=-2)
            squared.fill_diagonal_(0)  # its round-off would count for a narrow Gaussian, as would that of its gradient
            matrix, slope = _mixture(squared, kernel, bandwidth, differentiate)
            matrices.append(matrix)
            if slope is not None:
                slopes.append(slope)
        joint = case.joint * weights
        total += reduce(torch.mul, matrices, joint).sum(dtype=torch.float64)
        for marginal, matrix in zip(case.marginals, matrices, strict=True):
            if marginal:
                total += marginal * (weights * matrix).sum(dtype=torch.float64)
        if not differentiate:
            continue
        for layer, (z, slope, gradient) in enumerate(zip(layers, slopes, gradients, strict=True)):
            factor = reduce(torch.mul, matrices[:layer] + matrices[layer + 1 :], joint)
            if case.marginals[layer]:
                factor = factor + case.marginals[layer] * weights
            pull = (factor * slope).fill_diagonal_(0)  # d loss / d squared
            gradient[rows] += 2 * (pull.sum(1)[:, None] * z[rows] - pull @ z[columns])
            gradient[columns] += 2 * (pull.sum(0)[:, None] * z[columns] - pull.T @ z[rows])
    return total, gradients


def _mixture(squared: Tensor, kernel: Gaussian, bandwidth: float, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """The sum of the Gaussians and its derivative with respect to the squared distance."""
    matrix, slope = torch.zeros_like(squared), torch.zeros_like(squared) if differentiate else None
    for multiplier in kernel.multipliers:
        rate = -1 / (multiplier * bandwidth)
        gaussian = (squared * rate).exp_()
        matrix += gaussian
        if slope is not None:
            slope.add_(gaussian, alpha=rate)
    return matrix, slope


def _pair_weights(case: Case, rows: slice, estimator: str, like: Tensor) -> Tensor:
    """``[rows, N - rows.start]``. Later rows stand for their mirror images too; "unbiased" drops the diagonal."""
    if (matrices := case.matrices(like.device)) is not None:
        w, a = (matrix.to(like.dtype) for matrix in matrices)
        weights = w[rows] @ a @ w[rows.start :].T
    else:
        weights = _of_domains(case, rows, estimator, like)
    weights[:, weights.shape[0] :] *= 2
    return weights if estimator == "biased" else weights.fill_diagonal_(0)


def _of_domains(case: Case, rows: slice, estimator: str, like: Tensor) -> Tensor:
    n, m = case.n_source, case.n_target
    same = (1 / n**2, 1 / m**2) if estimator == "biased" else (1 / (n * (n - 1)), 1 / (m * (m - 1)))
    source = torch.arange(case.n, device=like.device) < n
    row, column = source[rows, None], source[None, rows.start :]
    weights = like.new_full((row.shape[0], column.shape[1]), -1 / (n * m))
    return weights.masked_fill_(row & column, same[0]).masked_fill_(~row & ~column, same[1])
