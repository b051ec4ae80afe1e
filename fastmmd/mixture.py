"""A layer's mixture of Gaussians at given squared distances, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmmd.problem import LayerKernel

MAX_SQUARINGS = 4


def mixture(layer: LayerKernel, bandwidth: Tensor, distances: Tensor) -> Tensor:
    """``sum_q weights[q] exp(-distances / (scales[q] * bandwidth))``, differentiable.

    A zero bandwidth means that all features are equal: every distance is 0, every Gaussian 1.
    """
    safe = torch.where(bandwidth == 0, torch.ones_like(bandwidth), bandwidth).to(distances.dtype)
    value = torch.zeros_like(distances)
    for scale, weight in zip(layer.scales, layer.weights, strict=True):
        value = value + weight * torch.exp(-distances / (scale * safe))
    return value


def mixture_and_slope(layer: LayerKernel, bandwidth: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """The mixture and minus its derivative by the squared distance; neither is differentiable.

    One exp serves up to five scales in ratio 2: the next sharper Gaussian is the square of the last. (Every squaring
    doubles the relative error, so the chain is cut there.)
    """
    rate = torch.where(bandwidth == 0, torch.zeros_like(bandwidth), 1 / bandwidth).to(distances.dtype)
    kernel, slope = torch.zeros_like(distances), torch.zeros_like(distances)
    value, previous, chain = distances, 0.0, 0
    for scale, weight in zip(reversed(layer.scales), reversed(layer.weights), strict=True):  # broadest first
        chain = chain + 1 if previous == 2 * scale and chain < MAX_SQUARINGS else 0
        value = value.square() if chain else torch.exp(distances * (-rate / scale))
        kernel.add_(value, alpha=weight)
        slope.add_(value * (rate * (weight / scale)))
        previous = scale
    return kernel, slope
