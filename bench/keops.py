"""KeOps as a competitor: symbolic N x N matrices that its own compiled kernels reduce without storing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import torch
from torch import Tensor

from bench.cases import MANY_ROWS, Case
from fastmmd import Gaussian
from fastmmd.bandwidth import mean_distance

NAME = "KeOps"
WIDEST = 512  # features: its kernels hold whole rows in registers, and wider ones take minutes to compile


def refuses(case: Case, device: torch.device) -> str | None:
    """Why it takes no part in a case; None if it does."""
    if importlib.util.find_spec("pykeops") is None:
        return "not installed"
    if case.form is not None:
        return "has no such loss here"
    if case.precision != "ieee":
        return "computes in fp32 only"
    if device.type == "cpu" and case.n > MANY_ROWS:
        return "takes minutes"
    return f"made for narrow layers (here: up to {WIDEST})" if max(case.dims) > WIDEST else None


class KeOps:
    """The loss of a case. Layers are divided by the root of their bandwidth first, so that the compiled formulas hold
    constants only."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __call__(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        case = self.case
        signs = torch.cat(
            [
                sources[0].new_full((case.n_source, 1), 1 / case.n_source),
                targets[0].new_full((case.n_target, 1), -1 / case.n_target),
            ]
        )
        layers = zip(sources, targets, case.kernels, strict=True)
        matrices = [_matrix(source, target, kernel) for source, target, kernel in layers]
        total = case.joint * (signs * (reduce(mul, matrices) @ signs)).sum()
        for matrix, weight in zip(matrices, case.marginals, strict=True):
            if weight:
                total = total + weight * (signs * (matrix @ signs)).sum()
        return total


def _matrix(source: Tensor, target: Tensor, kernel: Gaussian) -> Any:
    """The kernel matrix of a layer, symbolic."""
    from pykeops.torch import LazyTensor

    with torch.no_grad():
        if kernel.static.rule == "mean":
            bandwidth = mean_distance(source, target).to(source.dtype)
        else:
            bandwidth = source.new_tensor(kernel.static.number)
    z = torch.cat([source, target])
    z = (z - z.detach().mean(0)) / bandwidth.sqrt()
    squared = ((LazyTensor(z[:, None, :]) - LazyTensor(z[None, :, :])) ** 2).sum(-1)
    return reduce(add, [(squared * (-1 / m)).exp() for m in kernel.multipliers])
