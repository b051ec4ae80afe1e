"""Distances, bandwidths and estimators of MMD on dense matrices: what formulas.py is made of.

Notation: n source rows, m target rows, N = n + m rows pooled with the source first,
D_ij = ||z_i - z_j||^2, K the N x N kernel matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Distances and bandwidths ----------------------------------------------------------------------


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, d] and [m, d] to [n, m]."""
    return (x[:, None, :] - y[None, :, :]).square().sum(dim=-1)


def pooled_squared_distances(source: Tensor, target: Tensor) -> Tensor:
    """[n, d] and [m, d] to [N, N]."""
    pooled = torch.cat([source, target])
    return squared_distances(pooled, pooled)


def mean_off_diagonal(distances: Tensor) -> Tensor:
    """sum D / (N^2 - N): the mean over pairs of different rows. A constant for the gradient."""
    count = distances.shape[0]
    return distances.detach().sum() / (count * count - count)


def mean_all(distances: Tensor) -> Tensor:
    """sum D / N^2: the mean with the diagonal's zeros counted. A constant for the gradient."""
    return distances.detach().mean()


def lower_median_of_source(source: Tensor) -> Tensor:
    """Lower median of all n^2 source-source distances, zeros included. A constant for the gradient.

    Of an even number of values the smaller middle one, not the mean of the two.
    """
    ordered = squared_distances(source, source).detach().flatten().sort().values
    return ordered[(ordered.numel() - 1) // 2]


# Estimators, from a kernel matrix of the pooled rows -------------------------------------------


class Blocks(NamedTuple):
    """The kernel matrix by domain: source-source, target-target, source-target."""

    ss: Tensor
    tt: Tensor
    st: Tensor


def split(kernel: Tensor, n: int) -> Blocks:
    return Blocks(kernel[:n, :n], kernel[n:, n:], kernel[:n, n:])


def sum_off_diagonal(block: Tensor) -> Tensor:
    return block.sum() - block.diagonal().sum()


def v_statistic(kernel: Tensor, n: int) -> Tensor:
    """Biased: the mean of each block. Never negative."""
    ss, tt, st = split(kernel, n)
    return ss.mean() + tt.mean() - 2 * st.mean()


def u_statistic(kernel: Tensor, n: int) -> Tensor:
    """Unbiased: as V without the diagonal inside a domain; the cross block keeps all n m pairs."""
    ss, tt, st = split(kernel, n)
    m = len(tt)
    within = sum_off_diagonal(ss) / (n * (n - 1)) + sum_off_diagonal(tt) / (m * (m - 1))
    return within - 2 * st.mean()


def _mean_over_pairs(kernel: Tensor, n: int, first: Tensor, second: Tensor) -> Tensor:
    """Mean of k(s, s') + k(t, t') - k(s, t') - k(s', t) over the given pairs of row numbers."""
    ss, tt, st = split(kernel, n)
    within = ss[first, second] + tt[first, second]
    across = st[first, second] + st[second, first]
    return (within - across).mean()


def circular_pairs(kernel: Tensor, n: int) -> Tensor:
    """n overlapping pairs: row i with row (i + 1) mod n. Needs n = m."""
    require_equal_sizes(kernel, n)
    first = torch.arange(n)
    return _mean_over_pairs(kernel, n, first, (first + 1) % n)


def disjoint_pairs(kernel: Tensor, n: int) -> Tensor:
    """floor(n/2) pairs: rows 0 and 1, 2 and 3, ...; an odd last row is unused. Needs n = m."""
    require_equal_sizes(kernel, n)
    first = torch.arange(0, n - 1, 2)
    return _mean_over_pairs(kernel, n, first, first + 1)


def require_equal_sizes(kernel: Tensor, n: int) -> None:
    if kernel.shape[0] != 2 * n:
        raise ValueError(f"needs n = m, got n = {n} and m = {kernel.shape[0] - n}")
