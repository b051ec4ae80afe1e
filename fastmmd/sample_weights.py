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
        source, target = sources[0], targets[0]
        dtype = compute_dtype(*sources, *targets)
        a = _normalised("source_weights", source_weights, source, estimator)
        b = _normalised("target_weights", target_weights, target, estimator)
        return Form(_columns(a, b, dtype), _pair_weights(a, b, estimator), needs_rows=False)

    return make_form


def _normalised(name: str, weights: Tensor | None, rows: Tensor, estimator: str) -> Tensor:
    """``[n]`` in the accumulation dtype, of sum 1.

    Raises:
        ValueError, TypeError: not one non-negative number per row, or nothing that could be divided by.
    """
    n, dtype = rows.shape[0], accumulation_dtype(rows.device)
    if weights is None:
        return torch.full((n,), 1 / n, dtype=dtype, device=rows.device)
    checks.check_row_weights(name, weights, rows)
    weights = weights.to(dtype)
    total = weights.sum()
    if readable(weights):
        checks.check_values_of_row_weights(name, weights, total, estimator)
    return weights / total


def _columns(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """W: the source's weights in a column, the target's in another."""
    a, b = a.to(dtype), b.to(dtype)
    sides = torch.stack([torch.cat([a, torch.zeros_like(b)]), torch.cat([torch.zeros_like(a), b])])
    return sides.T


def _pair_weights(a: Tensor, b: Tensor, estimator: str) -> Tensor:
    """A: ``a^T K a + b^T K b - 2 a^T K b``. Without the diagonal of K, which "unbiased" leaves out, sums inside a
    domain are over pairs whose weights add up to ``1 - sum w^2``."""
    if estimator == "biased":
        return _signs(a.dtype, a.device)
    within = torch.stack([1 / (1 - weights.square().sum()) for weights in (a, b)])
    return _signs(a.dtype, a.device) + torch.diag(within - 1)


def _signs(dtype: torch.dtype, device: torch.device) -> Tensor:
    eye = torch.eye(2, dtype=dtype, device=device)
    return 2 * eye - 1
