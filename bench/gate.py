"""No speed without correctness: each loss and gradient is compared with the loss of the case in fp64.

The reference runs over blocks of rows, so it takes any N. Run in fp32 it is a good Gram-matrix version in eager torch;
the error that one makes, times `SLACK`, is the error that a competitor may make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.cases import Case
from bench.competitors import Loss

SLACK = 4.0
BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Errors:
    """loss: absolute. gradient: the norm of the error over that of the gradient, of the worst input."""

    loss: float
    gradient: float

    def within(self, allowed: Errors) -> bool:
        return self.loss <= allowed.loss and self.gradient <= allowed.gradient  # a NaN is not


# What dense fp32 with a centred Gram matrix reaches on any case: nobody has to be better than this.
FLOOR = Errors(loss=1e-6, gradient=2e-6)


class Gate:
    """The judge of one case: the references are computed when first asked for and kept."""

    def __init__(self, case: Case, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        self.case, self.sources, self.targets = case, sources, targets
        self._truths: dict[str, tuple[tuple[Tensor, list[Tensor]], Errors]] = {}

    def errors(self, loss: Loss, estimator: str = "biased", leniency: float = 1.0) -> tuple[Errors, Errors]:
        """The errors of `loss`, and those allowed: `leniency` times the usual."""
        inputs = [*self.sources, *self.targets]
        value = loss(self.sources, self.targets)
        gradients = torch.autograd.grad(value, inputs)
        if estimator not in self._truths:
            self._truths[estimator] = self._truth(estimator)
        exact, allowed = self._truths[estimator]
        return _errors((value.detach(), gradients), exact), Errors(leniency * allowed.loss, leniency * allowed.gradient)

    def _truth(self, estimator: str) -> tuple[tuple[Tensor, list[Tensor]], Errors]:
        exact = reference(self.case, self.sources, self.targets, torch.float64, estimator)
        usual = _errors(reference(self.case, self.sources, self.targets, torch.float32, estimator), exact)
        return exact, Errors(max(FLOOR.loss, SLACK * usual.loss), max(FLOOR.gradient, SLACK * usual.gradient))


def _errors(found: tuple[Tensor, Sequence[Tensor]], exact: tuple[Tensor, Sequence[Tensor]]) -> Errors:
    worst = max(
        ((got.double() - want).norm() / want.norm()).item() for got, want in zip(found[1], exact[1], strict=True)
    )
    return Errors((found[0].double() - exact[0]).abs().item(), worst)


def reference(
    case: Case, sources: Sequence[Tensor], targets: Sequence[Tensor], dtype: torch.dtype, estimator: str = "biased"
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients (sources first) in `dtype`, by autograd over blocks of rows of the Gram matrices.

    Only distinct rows are visited; each copy of a row has its share of the gradient.
    """
    if case.copies > 1 and estimator != "biased":
        raise ValueError("copies of a row change every statistic but the biased one")
    order_s, order_t = (case.order(n).to(sources[0].device) for n in (case.n_source, case.n_target))
    distinct = replace(case, n_source=case.n_source // case.copies, n_target=case.n_target // case.copies, copies=1)
    layers, bandwidths = [], []
    for source, target, kernel in zip(sources, targets, case.kernels, strict=True):
        z = torch.cat([source[_one_of_each(order_s)], target[_one_of_each(order_t)]]).detach().double()
        z = z - z.mean(0)
        mean = 2 * case.copies * z.square().sum() / (case.n - 1)
        bandwidths.append(mean.to(dtype) if kernel.bandwidth == "mean" else kernel.bandwidth)
        layers.append(z.to(dtype).requires_grad_())
    total = torch.zeros((), dtype=torch.float64, device=layers[0].device)
    height = max(1, BLOCK_ELEMENTS // distinct.n)
    for first in range(0, distinct.n, height):
        part = _rows(distinct, layers, bandwidths, slice(first, min(distinct.n, first + height)), estimator)
        part.backward()  # frees the block, adds to the gradients
        total += part.detach()
    gradients = [z.grad / case.copies for z in layers]
    n = distinct.n_source
    return total, [g[:n][order_s] for g in gradients] + [g[n:][order_t] for g in gradients]


def _one_of_each(order: Tensor) -> Tensor:
    """Where some copy of each distinct row stands."""
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(places[: int(order.max()) + 1]).scatter_(0, order, places)


def _rows(
    case: Case, layers: Sequence[Tensor], bandwidths: Sequence[Tensor | float], rows: slice, estimator: str
) -> Tensor:
    """What the pairs of `rows` with themselves and with all later rows add to the loss."""
    weights = _pair_weights(case, rows, estimator, layers[0])
    product, total = torch.ones_like(weights), 0.0
    for z, kernel, bandwidth, marginal in zip(layers, case.kernels, bandwidths, case.marginals, strict=True):
        norms = z.square().sum(1)
        squared = norms[rows, None] + norms[None, rows.start :] - 2 * z[rows] @ z[rows.start :].T
        matrix = sum(torch.exp(squared * (-1 / (m * bandwidth))) for m in kernel.multipliers)
        product = product * matrix
        if marginal:
            total = total + marginal * (weights * matrix).sum(dtype=torch.float64)
    return total + case.joint * (weights * product).sum(dtype=torch.float64)


def _pair_weights(case: Case, rows: slice, estimator: str, like: Tensor) -> Tensor:
    """``[rows, N - rows.start]``. Later rows stand for their mirror images too; "unbiased" drops the diagonal."""
    n, m = case.n_source, case.n_target
    same = (1 / n**2, 1 / m**2) if estimator == "biased" else (1 / (n * (n - 1)), 1 / (m * (m - 1)))
    source = torch.arange(case.n, device=like.device) < n
    row, column = source[rows, None], source[None, rows.start :]
    weights = like.new_full((row.shape[0], column.shape[1]), -1 / (n * m))
    weights.masked_fill_(row & column, same[0]).masked_fill_(~row & ~column, same[1])
    weights[:, row.shape[0] :] *= 2
    return weights if estimator == "biased" else weights.fill_diagonal_(0)
