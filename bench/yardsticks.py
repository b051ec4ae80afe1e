"""What a loss is held against besides other losses: the rate of torch.mm, and the cost of autograd itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.cases import pooled
from bench.measure import Mark, Phases, Step

# Gram matrix and gradient need 3 N^2 d flop per layer if each pair is computed once (1 for the distance, 2 for the
# gradients of both rows); one [N, d] x [d, N] product has 2 N^2 d.
PRODUCTS_PER_LAYER = 1.5
OUT_ELEMENTS = 1 << 30  # of a product's output: larger ones are computed in slabs of rows


def matmul(sources: Sequence[Tensor], targets: Sequence[Tensor], precision: str = "ieee") -> Step:
    """One product ``[N, d_l] x [d_l, N]`` per layer; of bf16 operands if `precision` says so, else by torch's setting.
    The output is allocated once, so that only the product is timed."""
    layers = [z.detach() for z in pooled(sources, targets)]
    if precision == "bf16":
        layers = [z.bfloat16() for z in layers]
    n = layers[0].shape[0]
    height = min(n, max(1, OUT_ELEMENTS // n))
    out = layers[0].new_empty(height, n)

    def step(mark: Mark) -> Phases:
        start = mark()
        for z in layers:
            for first in range(0, n, height):
                rows = z[first : first + height]
                torch.mm(rows, z.T, out=out[: len(rows)])
        return {"both": (start, mark())}

    return step


class ReadyGradients(torch.autograd.Function):
    """A 0-d loss of any inputs, whose gradients exist already and are only scaled."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (None, None, *[grad_loss * gradient for gradient in ctx.saved_tensors])


def empty_function(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """What autograd alone costs: as many inputs as the loss, and nothing computed."""
    inputs = (*sources, *targets)
    return ReadyGradients.apply(torch.zeros((), device=inputs[0].device), [x.detach() for x in inputs], *inputs)
