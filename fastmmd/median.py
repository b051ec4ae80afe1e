"""The median of the pooled squared distances: exact, in bounded memory, and without waiting for the device.

On a CPU the compiled kernel finds it. Elsewhere distances are computed tile by tile. If one tile is all there is, its
median; else the order statistic is found digit by digit (radix selection): a non-negative float orders as its bit
pattern does, so each pass over the tiles counts one digit of the candidates that share the digits known so far.

The median may be any pair's distance, however far the others lie, so no centre makes fp32 products safe. Those of fp64
are, for rows up to ten million times as far apart as the median; where there is no fp64, distances are differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastmmd import extension, transforms
from fastmmd.backends import cpu
from fastmmd.centring import bulk_centre
from fastmmd.dtypes import accumulation_dtype, compute_dtype

# Squared distances held at once (16 MiB of fp64).
TILE_ELEMENTS = 1 << 21
DIGIT_BITS = 16

_library = torch.library.Library("fastmmd", "FRAGMENT")
_library.define("median_distance(Tensor source, Tensor target) -> Tensor")


def median_distance(source: Tensor, target: Tensor) -> Tensor:
    """The lower median of the ``N (N - 1) / 2`` pooled squared distances: 0-d, fp64 where the device has it, detached.
    NaN if any value is NaN."""
    source, target = source.detach(), target.detach()
    if transforms.active(source, target):
        return _Traced.apply(source, target)
    with torch.no_grad():
        return _median_distance(source, target)


def _median_distance(source: Tensor, target: Tensor) -> Tensor:
    if extension.module is None or source.device.type != "cpu":
        return streaming_median(source, target).to(accumulation_dtype(source.device))
    median = cpu.median_distance(source, target)
    limits = torch.finfo(median.dtype)
    if not limits.tiny <= median.item() <= limits.max and not median.isnan():  # squares may have left fp32's range
        return cpu.median_distance(source.double(), target.double())
    return median.double()


def streaming_median(source: Tensor, target: Tensor) -> Tensor:
    """`median_distance` in plain torch, on any device."""
    dtype = compute_dtype(source, target)
    pairs = _Pairs(torch.cat([source.to(dtype), target.to(dtype)]))
    rank = (pairs.count - 1) // 2
    if pairs.n <= pairs.side:
        distances = next(pairs.distances()).flatten()
        # kthvalue is the faster one, but not deterministic on CUDA.
        on_cpu = distances.device.type == "cpu"
        median = distances.kthvalue(rank + 1).values if on_cpu else distances.sort().values[rank]
    else:
        median = _select(pairs, rank)
    return median.masked_fill(~pairs.centre.isfinite().all(), torch.nan)


def _select(pairs: _Pairs, rank: int) -> Tensor:
    """The distance of rank `rank`, counted from 0."""
    device = pairs.x.device
    word, bits = (torch.int32, 31) if pairs.x.dtype == torch.float32 else (torch.int64, 63)
    prefix = torch.zeros((), dtype=word, device=device)
    left = torch.full((1,), rank, dtype=torch.int64, device=device)  # among candidates
    for shift, width in _digits(bits):
        others = 1 << width  # a last count for what is no candidate
        counts = torch.zeros(others + 1, dtype=torch.int64, device=device)
        for distances in pairs.distances():
            keys = distances.flatten().view(word)
            digit = (keys >> shift) & (others - 1)
            if shift + width < bits:
                digit.masked_fill_((keys >> (shift + width)) != (prefix >> (shift + width)), others)
            index = digit.long()
            counts.scatter_add_(0, index, torch.ones((), dtype=torch.int64, device=device).expand_as(index))
        up_to = counts[:others].cumsum(0)
        digit = (up_to <= left).sum().clamp(max=others - 1)
        # `take`: an index on the device is not read by the host.
        left = left - (up_to.take(digit) - counts.take(digit))
        prefix = prefix | (digit.to(word) << shift)
    return prefix.view(pairs.x.dtype)


def _digits(bits: int) -> Iterator[tuple[int, int]]:
    """(shift, width) of each digit, most significant first."""
    for high in range(bits, 0, -DIGIT_BITS):
        low = max(0, high - DIGIT_BITS)
        yield low, high - low


class _Pairs:
    """Squared distances of the rows of `x`."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.n = x, len(x)
        self.count = self.n * (self.n - 1) // 2
        self.centre = bulk_centre(x)
        self.products = accumulation_dtype(x.device) == torch.float64
        elements = TILE_ELEMENTS if self.products else TILE_ELEMENTS // x.shape[1]
        self.side = max(1, int(elements**0.5))

    def distances(self) -> Iterator[Tensor]:
        """Tiles of distances, each pair i < j once. Infinity stands elsewhere, which ranks behind every
        pair (selecting by a mask would wait for the device)."""
        side = self.side
        for i0 in range(0, self.n, side):
            rows = self._rows(i0)
            for j0 in range(i0, self.n, side):
                distances = self._tile(rows, rows if i0 == j0 else self._rows(j0)).to(self.x.dtype)
                if i0 == j0:
                    index = torch.arange(len(distances), device=distances.device)
                    distances = distances.masked_fill_(index[:, None] >= index, torch.inf)
                yield distances

    def _rows(self, start: int) -> Tensor:
        rows = self.x[start : start + self.side]
        return rows.double() - self.centre.double() if self.products else rows

    def _tile(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.products:
            return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        norms = a.square().sum(1)[:, None] + b.square().sum(1)
        distances = torch.addmm(norms, a, b.T, alpha=-2)
        # Equal rows come out within round-off of 0, and a median among them must be 0.
        return distances.masked_fill_(distances <= norms.mul_(8 * torch.finfo(norms.dtype).eps), 0)


@torch.library.impl(_library, "median_distance", "CompositeExplicitAutograd")
def _median_op(source: Tensor, target: Tensor) -> Tensor:
    return _median_distance(source, target)


@torch.library.register_fake("fastmmd::median_distance", lib=_library)
def _median_fake(source: Tensor, target: Tensor) -> Tensor:
    return source.new_empty((), dtype=accumulation_dtype(source.device))


class _Traced(torch.autograd.Function):
    """The op, with a rule for vmap."""

    @staticmethod
    def forward(source: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return torch.ops.fastmmd.median_distance(source, target)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[None, None]:  # type: ignore[override]
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Tensor) -> tuple[Tensor, int]:
        medians = [
            _Traced.apply(*(x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return torch.stack(medians), 0
