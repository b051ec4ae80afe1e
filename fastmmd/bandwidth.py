"""Bandwidth rules: the mean in closed form, the median exactly and without an N x N matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastmmd.gaussian import Gaussian
from fastmmd.matmul import matmul_precision
from fastmmd.transforms import readable

# Squared distances held at once by the median (4 MiB of fp32).
TILE_ELEMENTS = 1 << 20


def compute_dtype(*layers: Tensor) -> torch.dtype:
    """fp64 stays fp64; everything narrower is computed in fp32."""
    return torch.float64 if any(layer.dtype == torch.float64 for layer in layers) else torch.float32


def pooled(source: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Source and target rows as one ``[N, d]`` tensor with the pooled mean subtracted. A Gaussian kernel does not see
    the shift, but ``|x|^2 + |y|^2 - 2 x.y`` loses its digits without it. The mean is taken as the first row plus the
    mean difference from it, so that constant features become exactly 0."""
    z = torch.cat([source.to(dtype), target.to(dtype)])
    return z - (z[:1] + (z - z[:1]).mean(0))


def mean_distance(source: Tensor, target: Tensor, over_all_pairs: bool = False) -> Tensor:
    """``sum_ij ||z_i - z_j||^2`` over ``N^2 - N`` (or ``N^2``): 0-d, differentiable, in O(N d) by
    ``sum_ij ||z_i - z_j||^2 = 2 N sum_i ||z_i||^2`` for centred rows."""
    z = pooled(source, target, compute_dtype(source, target))
    n = z.shape[0]
    return 2 * z.square().sum() / (n if over_all_pairs else n - 1)


def median_distance(source: Tensor, target: Tensor) -> Tensor:
    """The lower median of the ``N (N - 1) / 2`` pooled squared distances, 0-d, detached.

    One tile of distances at a time. If one tile is all there is, its median; else the order statistic is found digit by
    digit (radix selection): a non-negative float orders as its bit pattern does, so each pass over the tiles counts one
    digit of the candidates that share the digits found so far. Nothing waits for the device.
    """
    device = source.device
    with torch.no_grad(), _full_precision(device), torch.autocast(device.type, enabled=False):
        z = pooled(source.detach(), target.detach(), compute_dtype(source, target))
        n = z.shape[0]
        pairs = n * (n - 1) // 2
        middle = (pairs - 1) // 2
        if n * n <= TILE_ELEMENTS:
            distances = next(_tiles(z, n)).flatten()
            # kthvalue is the faster one, but not deterministic on CUDA.
            return distances.kthvalue(middle + 1).values if device.type == "cpu" else distances.sort().values[middle]
        word = torch.int32 if z.dtype == torch.float32 else torch.int64
        rows = max(1, TILE_ELEMENTS // n)
        prefix = torch.zeros((), dtype=word, device=z.device)
        rank = torch.full((), middle, dtype=torch.int64, device=z.device)  # 0-based, among candidates
        for shift, bits in _digits(31 if word == torch.int32 else 63):
            counts = torch.zeros(1 << bits, dtype=torch.int64, device=z.device)
            for distances in _tiles(z, rows):
                keys = distances.flatten().view(word)
                candidate = (keys >> (shift + bits)) == (prefix >> (shift + bits))
                digit = ((keys >> shift) & ((1 << bits) - 1)).long()
                counts = counts.scatter_add(0, digit, candidate.long())
            below = counts.cumsum(0)
            digit = (below <= rank).sum()
            rank = rank - (below[digit] - counts[digit])
            prefix = prefix | (digit.to(word) << shift)
        return prefix.view(z.dtype)


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    # torch.compile can't look into a lock; what it compiles keeps torch's setting.
    return nullcontext() if torch.compiler.is_compiling() else matmul_precision(device, "ieee")


def _digits(bits: int) -> Iterator[tuple[int, int]]:
    """(shift, width) of each digit, most significant first."""
    width = 11
    for high in range(bits, 0, -width):
        low = max(0, high - width)
        yield low, high - low


def _tiles(z: Tensor, rows: int) -> Iterator[Tensor]:
    """Squared distances of all pairs i < j, `rows` rows of the triangle at a time; infinity elsewhere, which ranks
    behind every pair (selecting by a mask would wait for the device)."""
    n = z.shape[0]
    norms = z.square().sum(1)
    index = torch.arange(n, device=z.device)
    noise = 8 * torch.finfo(z.dtype).eps
    for i0 in range(0, n, rows):
        i1 = min(n, i0 + rows)
        distances = torch.addmm(norms[i0:i1, None] + norms[None, i0:], z[i0:i1], z[i0:].T, alpha=-2)
        # Equal rows come out within round-off of 0, and a median among them must be 0.
        distances = distances.where(distances > noise * (norms[i0:i1, None] + norms[None, i0:]), 0)
        yield distances.masked_fill(index[i0:i1, None] >= index[None, i0:], torch.inf)


def given_bandwidths(kernels: Sequence[Gaussian], sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """``[L]`` fp64: per layer the bandwidth tensor, the median or the differentiable mean; 1 where the backend finds
    the bandwidth itself."""
    values = []
    for kernel, source, target in zip(kernels, sources, targets, strict=True):
        rule = kernel.bandwidth
        if isinstance(rule, Tensor):
            if readable(rule) and not rule.item() > 0:
                raise ValueError(f"bandwidth: expected a positive value, got {rule.item()}")
            if rule.device != source.device:  # moving it would wait for the device in every call
                raise ValueError(f"bandwidth: expected a tensor on {source.device}, got one on {rule.device}")
            value = rule
        elif rule == "median":
            value = median_distance(source, target)
        elif isinstance(rule, str) and not kernel.detach_bandwidth:
            value = mean_distance(source, target, over_all_pairs=rule == "mean_all")
        else:
            value = torch.ones((), device=source.device)
        values.append(value.to(torch.float64))
    return torch.stack(values)
