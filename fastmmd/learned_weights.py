"""Kernel weights that are tensors. The loss is linear in the weights of each layer, so it is their sum over losses with
one Gaussian in each such layer: exact, on every backend, with all derivatives, at the price of a pass per Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from fastmmd.call import Evaluation
from fastmmd.gaussian import Gaussian

# From a slice of the layers and their kernels to the joint MMD of these layers.
JointMMD = Callable[[slice, Sequence[Gaussian]], Evaluation]


def weighted_sum(
    joint_mmd: JointMMD, kernels: Sequence[Gaussian], joint: float, marginal: Sequence[float]
) -> Evaluation:
    """The loss of `fastmmd.discrepancy` with these weights of its terms; rows are those of the joint term."""
    joint_terms, rows, statistics = [], [], []
    for gaussians, weights in combinations(kernels):
        evaluation = joint_mmd(slice(None), gaussians)
        joint_terms.append(times(evaluation.loss, weights))
        statistics.append(evaluation.statistics)
        if evaluation.rows is not None:
            rows.append(times(evaluation.rows, weights))
    joint_value = torch.stack(joint_terms).sum()
    layer_values = [joint_value]
    if len(kernels) > 1:
        layer_values = [_marginal(joint_mmd, layer, kernel) for layer, kernel in enumerate(kernels)]
    loss = joint * joint_value
    for weight, value in zip(marginal, layer_values, strict=True):
        loss = loss + weight * value
    bandwidths = statistics[0][1 + len(kernels) :]
    all_statistics = torch.cat([torch.stack([joint_value, *layer_values]).detach(), bandwidths])
    return Evaluation(loss, all_statistics, torch.stack(rows).sum(0).detach() if rows else None)


def combinations(kernels: Sequence[Gaussian]) -> Iterator[tuple[list[Gaussian], list[Tensor | None]]]:
    """The product of all layers' kernels is the sum of such products of single Gaussians times their weights; a kernel
    whose weights are numbers stays whole, and None stands for its weight."""
    for combination in product(*[_weighted_gaussians(kernel) for kernel in kernels]):
        yield [kernel for kernel, _ in combination], [weight for _, weight in combination]


def _marginal(joint_mmd: JointMMD, layer: int, kernel: Gaussian) -> Tensor:
    only = slice(layer, layer + 1)
    terms = [times(joint_mmd(only, [gaussian]).loss, [weight]) for gaussian, weight in _weighted_gaussians(kernel)]
    return torch.stack(terms).sum()


def _weighted_gaussians(kernel: Gaussian) -> list[tuple[Gaussian, Tensor | None]]:
    if not isinstance(kernel.weights, Tensor):
        return [(kernel, None)]
    return [(kernel.single(index), kernel.weights[index]) for index in range(len(kernel.multipliers))]


def times(value: Tensor, weights: Sequence[Tensor | None]) -> Tensor:
    """The value times all weights that are no None."""
    for weight in weights:
        value = value if weight is None else value * weight.to(value.dtype)
    return value
