"""No speed without correctness: each loss and gradient is compared with the loss of the case in fp64.

The reference runs over blocks of rows, so it takes any N. The error it makes in fp32, times `SLACK`, is the error that
a competitor may make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bench import blocked, measure
from bench.cases import Case, Loss

SLACK = 4.0
UNWEIGHTED = "unweighted"  # the V-statistic of the same rows without the weights that the case gives them


@dataclass(frozen=True)
class Errors:
    """How far a loss and its gradients are off.

    loss: absolute.
    gradient: the norm of the error over that of the gradient, for the worst input.
    """

    loss: float
    gradient: float

    def within(self, allowed: Errors) -> bool:
        return self.loss <= allowed.loss and self.gradient <= allowed.gradient  # a NaN is not


# Errors that are always allowed. "ieee": what dense fp32 with a centred Gram matrix reaches on any case. The others:
# one unit round-off of the format for the loss, since kernel values are of size 1, and a few for the gradient.
FLOORS = {
    "ieee": Errors(loss=1e-6, gradient=2e-6),
    "tf32x3": Errors(loss=2e-6, gradient=6e-6),
    "tf32": Errors(loss=2**-11, gradient=8 * 2**-11),
    "bf16": Errors(loss=2**-8, gradient=8 * 2**-8),
}


class Gate:
    """Compares losses of a case with its references, which are computed when they are first needed and kept."""

    def __init__(self, case: Case, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        self.case, self.sources, self.targets = case, sources, targets
        self._references: dict[str, _Reference] = {}

    def errors(self, loss: Loss, estimator: str = "biased", leniency: float = 1.0) -> tuple[Errors, Errors]:
        """The errors of `loss`, and those allowed: `leniency` times the usual."""
        inputs = [*self.sources, *self.targets]
        value = loss(self.sources, self.targets)
        gradients = torch.autograd.grad(value, inputs)
        if estimator not in self._references:
            self._references[estimator] = self._reference(estimator)
        exact = self._references[estimator]
        limits = Errors(leniency * exact.allowed.loss, leniency * exact.allowed.gradient)
        return _errors(value.detach(), gradients, exact.loss, exact.gradients), limits

    def _reference(self, estimator: str) -> _Reference:
        case = self.case
        if estimator == UNWEIGHTED:
            case, estimator = replace(case, form=None), "biased"
        loss, gradients = reference(case, self.sources, self.targets, torch.float64, estimator)
        with measure.torch_products("ieee"):
            rounded_loss, rounded = reference(case, self.sources, self.targets, torch.float32, estimator)
        usual, floor = _errors(rounded_loss, rounded, loss, gradients), FLOORS[self.case.precision]
        allowed = Errors(max(floor.loss, SLACK * usual.loss), max(floor.gradient, SLACK * usual.gradient))
        return _Reference(loss, gradients, allowed)


class _Reference(NamedTuple):
    """The loss and its gradients in fp64, and the errors that are allowed beside it."""

    loss: Tensor
    gradients: list[Tensor]
    allowed: Errors


def _errors(loss: Tensor, gradients: Sequence[Tensor], exact: Tensor, exact_gradients: Sequence[Tensor]) -> Errors:
    worst = max([((g.double() - e).norm() / e.norm()).item() for g, e in zip(gradients, exact_gradients, strict=True)])
    return Errors((loss.double() - exact).abs().item(), worst)


def reference(
    case: Case, sources: Sequence[Tensor], targets: Sequence[Tensor], dtype: torch.dtype, estimator: str = "biased"
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients (sources first) in `dtype`; centred and with bandwidths in fp64.

    Only distinct rows are visited; each copy of a row has its share of the gradient.
    """
    distinct = case.distinct
    if distinct.n < case.n and estimator != "biased":
        raise ValueError("copies of a row change every statistic but the biased one")
    order_s, order_t = (order.to(sources[0].device) for order in case.orders)
    layers = blocked.centred(
        [source[_one_of_each(order_s)].double() for source in sources],
        [target[_one_of_each(order_t)].double() for target in targets],
    )
    bandwidths = blocked.resolve_bandwidths(case, layers)
    total, gradients = blocked.discrepancy(distinct, [z.to(dtype) for z in layers], bandwidths, estimator)
    n = distinct.n_source
    (_, copies_s), (_, copies_t) = case.sides
    of_sources = [g[:n][order_s] / copies_s for g in gradients]
    return total, of_sources + [g[n:][order_t] / copies_t for g in gradients[: len(targets)]]


def _one_of_each(order: Tensor) -> Tensor:
    """The index of some copy of each distinct row."""
    indices = torch.arange(len(order), device=order.device)
    return torch.empty_like(indices[: int(order.max()) + 1]).scatter_(0, order, indices)
