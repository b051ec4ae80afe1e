"""Kernel weights that are tensors. The loss is linear in the weights of each layer, so it is their sum over losses with
one Gaussian in each such layer: exact, on every backend, with all derivatives, at the price of a pass per Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from fastmmd.gaussian import Gaussian

# From a slice of the layers and their kernels to the joint MMD of these layers, and its report.
Pass = Callable[[slice, Sequence[Gaussian]], tuple[Tensor, Tensor]]


def discrepancy(
    run: Pass, kernels: Sequence[Gaussian], joint: float, marginal: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The loss (0-d) and the detached report ``[1 + 2 L]`` (joint, marginals, bandwidths)."""
    terms = []
    for chosen in product(*[_choices(kernel) for kernel in kernels]):
        value, report = run(slice(None), [kernel for kernel, _ in chosen])
        terms.append((_times(value, [weight for _, weight in chosen]), report))
    of_joint = torch.stack([value for value, _ in terms]).sum()
    of_layers = [of_joint]
    if len(kernels) > 1:
        of_layers = [_marginal(run, index, kernel) for index, kernel in enumerate(kernels)]
    loss = joint * of_joint
    for weight, value in zip(marginal, of_layers, strict=True):
        loss = loss + weight * value
    bandwidths = terms[0][1][1 + len(kernels) :]
    return loss, torch.cat([torch.stack([of_joint, *of_layers]).detach(), bandwidths])


def _marginal(run: Pass, layer: int, kernel: Gaussian) -> Tensor:
    return torch.stack(
        [_times(run(slice(layer, layer + 1), [single])[0], [weight]) for single, weight in _choices(kernel)]
    ).sum()


def _choices(kernel: Gaussian) -> list[tuple[Gaussian, Tensor | None]]:
    """The Gaussians of a kernel with their weights; a kernel whose weights are numbers is one, with no weight."""
    if not isinstance(kernel.weights, Tensor):
        return [(kernel, None)]
    return [(kernel.single(index), kernel.weights[index]) for index in range(len(kernel.multipliers))]


def _times(value: Tensor, weights: Sequence[Tensor | None]) -> Tensor:
    for weight in weights:
        value = value if weight is None else value * weight.to(value.dtype)
    return value
