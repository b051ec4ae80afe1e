"""Rows of both domains around a common centre.

A Gaussian kernel does not see a shift of all rows, but ``|x|^2 + |y|^2 - 2 x.y`` loses digits with it: the absolute
error of a distance is that of the two squared norms.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUPS = 9  # up to four of them may hold rows that are far from all others


def pooled(source: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Source and target rows as one ``[N, d]`` tensor with the pooled mean subtracted. The mean is taken as the first
    row plus the mean difference from it, so that constant features become exactly 0."""
    z = torch.cat([source.to(dtype), target.to(dtype)])
    return z - (z[:1] + (z - z[:1]).mean(0))


def pooled_around_bulk(source: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """The same around `bulk_centre`."""
    z = torch.cat([source.to(dtype), target.to(dtype)])
    return z - bulk_centre(z)


def bulk_centre(z: Tensor) -> Tensor:
    """``[d]``: the median of a few means, per feature. It is near the mean, but a few far rows don't move it, and with
    it the norms of all others stay as small as they are wide. A value that is not finite makes its feature NaN."""
    n, d = z.shape
    groups = min(n, GROUPS)
    # Relative to values that occur, so that constant features become exactly 0.
    origin = _middle(z[:: -(-n // groups)])
    centred = z - origin
    whole = n - n % groups
    means = centred[:whole].view(-1, groups, d).mean(0)  # group g: rows g, g + groups, ... of either domain
    poison = 0 * (means.sum(0) + centred[whole:].sum(0))
    return origin + (_middle(means) + poison)


def _middle(rows: Tensor) -> Tensor:
    return rows.sort(0).values[(len(rows) - 1) // 2]
