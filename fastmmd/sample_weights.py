"""Weights of samples: rows that count more or less, normalised inside each domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd import checks, linear_time
from fastmmd.call import Form
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.evaluation import FormMaker
from fastmmd.transforms import readable


def form_maker(source_weights: Tensor | None, target_weights: Tensor | None) -> FormMaker | None:
    """The form of given weights; None where no row has one."""
    if source_weights is None and target_weights is None:
        return None

    def make_form(sources: Sequence[Tensor], targets: Sequence[Tensor], estimator: str) -> Form:
        if estimator in linear_time.ESTIMATORS:
            raise ValueError(f"source_weights, target_weights: estimator {estimator!r} takes none")
        dtype = compute_dtype(*sources, *targets)
        source = _normalised("source_weights", source_weights, sources[0], estimator)
        target = _normalised("target_weights", target_weights, targets[0], estimator)
        if estimator == "biased":  # the squared distance of two weighted means, (a, -b)^T K (a, -b)
            w = torch.cat([source, -target])[:, None]
            return Form(w.to(dtype), w.new_ones(1), needs_rows=False)
        return Form(_by_domain(source, target).to(dtype), _unbiased(source, target), needs_rows=False)

    return make_form


def _normalised(name: str, weights: Tensor | None, rows: Tensor, estimator: str) -> Tensor:
    """``[n]`` of sum 1, in the accumulation dtype: fp32 may not hold the sum of fp32 weights.

    Raises:
        ValueError, TypeError: not one non-negative number per row, or nothing that could be divided by.
    """
    n, dtype = rows.shape[0], accumulation_dtype(rows.device)
    if weights is None:
        return rows.new_full((n,), 1 / n, dtype=dtype)
    checks.check_row_weights(name, weights, rows)
    weights = weights.to(dtype)
    total = weights.sum()
    if readable(weights):
        checks.check_values_of_row_weights(name, weights, total, estimator)
    return weights / total


def _by_domain(source: Tensor, target: Tensor) -> Tensor:
    """W: the source's weights in a column, the target's in another."""
    sides = torch.cat([source, torch.zeros_like(target)]), torch.cat([torch.zeros_like(source), target])
    return torch.stack(sides, 1)


def _unbiased(source: Tensor, target: Tensor) -> Tensor:
    """A: without the diagonal of K, sums inside a domain are over pairs whose weights add up to ``1 - sum w^2``."""
    within = [1 / (weights * (1 - weights)).sum() for weights in (source, target)]
    cross = within[0].new_full((), -1)
    return torch.stack([within[0], cross, cross, within[1]]).view(2, 2)
