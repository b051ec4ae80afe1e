"""Batches that losses are compared on, and what it is for two losses to agree on one: in value and gradients.

A loss here takes the layers of the source and those of the target; `one_layer` and `layerwise` make one of a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Layers = Sequence[Tensor]
Loss = Callable[[Layers, Layers], Tensor]

TOLERANCE = 1e-11

EQUAL_SIZES = [(3, 3), (8, 8), (31, 31)]
UNEQUAL_SIZES = [(7, 12), (33, 20)]
WIDTHS = [1, 3, 17, 64]


def batch(n: int, m: int, d: int, layers: int = 1, *, offset: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """Features of width d around the offset, then softmax layers; another seed for every shape."""
    generator = torch.Generator().manual_seed(10_000 * n + 100 * m + d)

    def normal(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    source, target = [normal(n, d) + offset], [1.3 * normal(m, d) + offset + 0.4]
    for width in (5, 8)[: layers - 1]:
        source.append(normal(n, width).softmax(dim=1))
        target.append((2 * normal(m, width)).softmax(dim=1))
    return source, target


def value_and_gradients(loss: Loss, sources: Layers, targets: Layers) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value, and one gradient per layer, those of the source first."""
    sources = [s.detach().clone().requires_grad_() for s in sources]
    targets = [t.detach().clone().requires_grad_() for t in targets]
    value = loss(sources, targets)
    return value.detach(), torch.autograd.grad(value, sources + targets)


def assert_agree(
    actual: Loss,
    expected: Loss,
    sources: Layers,
    targets: Layers,
    tolerance: float = TOLERANCE,
    scale: float = 1.0,
) -> None:
    """Equal values, and gradients equal relative to their own largest entry."""
    value, gradients = value_and_gradients(actual, sources, targets)
    expected_value, expected_gradients = value_and_gradients(expected, sources, targets)
    assert value.dtype == expected_value.dtype == torch.float64
    assert value.shape == expected_value.shape == ()
    torch.testing.assert_close(value, expected_value, rtol=tolerance, atol=tolerance * scale)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        size = expected_gradient.abs().max().item() + 1e-5 * scale
        torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance * size)


def sizes(equal_only: bool) -> list[tuple[int, int, int]]:
    """(n, m, width of the features) of the batches; with `equal_only` those with n = m."""
    rows = EQUAL_SIZES if equal_only else EQUAL_SIZES + UNEQUAL_SIZES
    return [(n, m, d) for n, m in rows for d in WIDTHS]


def one_layer(formula: Callable[..., Tensor], *args: object, **kwargs: object) -> Loss:
    """The loss of a formula of two tensors, which takes the first layer of each domain."""
    return lambda sources, targets: formula(sources[0], targets[0], *args, **kwargs)


def layerwise(formula: Callable[..., Tensor], *args: object, **kwargs: object) -> Loss:
    """The loss of a formula of two sequences of tensors, one tensor per layer."""
    return lambda sources, targets: formula(sources, targets, *args, **kwargs)
