"""Backend "torch": tiles of the Gram matrix in plain torch, on any device, in bounded memory.

For each pair of row panels I <= J and each layer: one product gives the inner products, a few elementwise passes the
coefficients C (docs/mathematics.md), and two products add C z to the gradient of I and C^T z to that of J. Each Gram
tile is computed once. No step waits for the device.

On a CPU, where reading a number costs nothing, rows whose norms are large beside a bandwidth (`gram.condition`) are
computed in fp64, and if that is not enough by differences. Elsewhere fastmmd.conditioning warns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmmd.backends import gram
from fastmmd.call import Call, Form, Result
from fastmmd.dtypes import accumulation_dtype
from fastmmd.mixture import mixture_and_slope
from fastmmd.precision import matmul_precision, torch_precision

FP64_PRODUCT_CONDITION = 1e9  # for results in fp32


@dataclass(frozen=True)
class Config:
    """workspace_bytes: everything that lives at once while a tile is processed, about 3 tensors per layer and 4 more.
    product_condition: up to this condition a product is as good as differences: the error of a kernel is some eps times
    as large."""

    workspace_bytes: int = 32 << 20
    product_condition: float = 64.0


def unavailable(device: torch.device) -> str | None:
    return None


def supports(call: Call) -> str | None:
    return None


def run(call: Call, config: Config | None = None) -> Result:
    config = config or Config()
    device = call.device
    precision = torch_precision(device) if call.precision is None else call.precision
    with torch.no_grad(), matmul_precision(device, precision), torch.autocast(device.type, enabled=False):
        format = "tf32" if device.type == "cuda" and precision in ("tf32", "bf16") else "ieee"
        tiles = _Tiles(call, format)
        if device.type != "cpu" or all(condition <= config.product_condition for condition in tiles.conditions()):
            return tiles.run(config)
        dtype = call.dtype
        wide = call._replace(sources=[x.double() for x in call.sources], targets=[x.double() for x in call.targets])
        tiles = _Tiles(wide, format)
        limit = config.product_condition if dtype == torch.float64 else FP64_PRODUCT_CONDITION
        for index, condition in enumerate(tiles.conditions()):
            if condition > limit:  # centred rows would have rounded already
                tiles.uncentred[index] = torch.cat([wide.sources[index], wide.targets[index]])
        loss, statistics, gradients, weighted_rows = tiles.run(config)
        gradients = [None if gradient is None else gradient.to(dtype) for gradient in gradients]
        weighted_rows = None if weighted_rows is None else weighted_rows.to(dtype)
        return Result(loss.to(dtype), statistics.to(dtype), gradients, weighted_rows)


class _Tiles:
    """Sums over pairs and gradients ``[N, d_l]``, added up tile by tile."""

    def __init__(self, call: Call, format: str) -> None:
        self.call, self.problem = call, call.problem
        self.z, self.norms, self.bandwidths = gram.centred_rows(call, format)
        self.dtype, self.device = self.z[0].dtype, self.z[0].device
        self.gradients = [
            torch.zeros_like(z) if needed else None for z, needed in zip(self.z, call.layer_needs_grad, strict=True)
        ]
        self.uncentred: list[Tensor | None] = [None] * len(self.z)  # rows whose distances are taken by differences
        # The median and a learned bandwidth may be 0, where only distance 0 counts: round-off must not hide it.
        self.may_be_zero = [call.bandwidths is not None and not layer.follows_mean for layer in self.problem.layers]
        self.accumulation = accumulation_dtype(self.device)
        sums = 2 if self.problem.weighted else 3  # gram.loss_and_statistics
        self.sums = torch.zeros(sums, len(self.z) + 1, dtype=self.accumulation, device=self.device)
        self.form = None if call.form is None else _FormTensors(call.form, self.dtype)
        if self.form is not None and self.form.wa is not None:
            self.sums[1] = (self.form.w * self.form.wa).sum()

    def conditions(self) -> list[float]:
        """`gram.condition` of each layer, read."""
        layers = zip(self.problem.layers, self.norms, self.bandwidths, strict=True)
        return [gram.condition(layer, norms, bandwidth).item() for layer, norms, bandwidth in layers]

    def run(self, config: Config) -> Result:
        bytes_per_pair = (3 * len(self.z) + 4) * self.z[0].element_size()
        if self.form is not None:  # weights of pairs, and their products with kernels
            bytes_per_pair += 3 * self.sums.element_size()
        side = max(32, int((config.workspace_bytes / bytes_per_pair) ** 0.5) // 32 * 32)
        for rows, columns in gram.panel_pairs(self.problem.n, side):
            self._add_tile(rows, columns)
        loss, statistics = gram.loss_and_statistics(self.problem, self.sums, self.bandwidths, self.dtype)
        kw = None if self.form is None else self.form.kw
        return Result(loss, statistics, gram.by_domain(self.call, self.gradients), kw)

    def _add_tile(self, rows: slice, columns: slice) -> None:
        problem, diagonal = self.problem, rows == columns
        kernels, slopes = [], []
        for index, layer in enumerate(problem.layers):
            distances = self._distances(index, rows, columns)
            if diagonal:
                distances.fill_diagonal_(0)
            kernel, slope = mixture_and_slope(layer, self.bandwidths[index], distances)
            kernels.append(kernel)
            slopes.append(slope)
        product = kernels[0]
        for kernel in kernels[1:]:
            product = product * kernel
        terms = [product, *kernels]
        if self.form is None:
            self._add_sums(terms, rows, columns)
            if not any(self.call.needs_grad):
                return
            pair_weights = self._domain_weights(rows, columns)
        else:
            with matmul_precision(self.device, "ieee"):
                self.form.add_rows(problem.combine(terms), rows, columns)
                if self.form.wa is None:
                    return
                pair_weights = self.form.w[rows].to(self.accumulation) @ self.form.wa[columns].T
        if diagonal:
            pair_weights.fill_diagonal_(0)
        if self.form is not None:
            self._add_weighted_sums(terms, pair_weights, diagonal)
            pair_weights = pair_weights.to(self.dtype)
        for index, gradient in enumerate(self.gradients):
            if gradient is None:
                continue
            factor = torch.full_like(pair_weights, problem.joint)
            for other, kernel in enumerate(kernels):
                if other != index:
                    factor *= kernel
            c, z = factor.add_(problem.marginal[index]).mul_(slopes[index]).mul_(pair_weights), self.z[index]
            gradient[rows] += 4 * (c @ z[columns] - c.sum(1, keepdim=True) * z[rows])
            if not diagonal:
                gradient[columns] += 4 * (c.T @ z[rows] - c.sum(0).unsqueeze(1) * z[columns])

    def _distances(self, layer: int, rows: slice, columns: slice) -> Tensor:
        z, norms, uncentred = self.z[layer], self.norms[layer], self.uncentred[layer]
        if uncentred is not None:
            exact = "donot_use_mm_for_euclid_dist"
            return torch.cdist(uncentred[rows], uncentred[columns], compute_mode=exact).square_()
        sums = norms[rows, None] + norms[None, columns]
        if not self.may_be_zero[layer]:
            return sums.addmm_(z[rows], z[columns].T, alpha=-2).clamp_(min=0)
        distances = torch.addmm(sums, z[rows], z[columns].T, alpha=-2)
        return distances.masked_fill_(distances <= sums.mul_(8 * torch.finfo(self.dtype).eps), 0)

    def _domain_weights(self, rows: slice, columns: slice) -> Tensor:
        alpha, beta, gamma, _ = self.problem.pair_weights
        source = torch.arange(self.problem.n, device=self.device) < self.problem.n_source
        row, column = source[rows, None], source[None, columns]
        weights = torch.full((row.shape[0], column.shape[1]), 0.5 * gamma, dtype=self.dtype, device=self.device)
        return weights.masked_fill_(row & column, alpha).masked_fill_(~row & ~column, beta)

    def _add_weighted_sums(self, terms: list[Tensor], pair_weights: Tensor, diagonal: bool) -> None:
        images = 1 if diagonal else 2  # an off-diagonal tile stands for its mirror image too
        for index, term in enumerate(terms):
            self.sums[0, index] += images * (term * pair_weights).sum()

    def _add_sums(self, terms: list[Tensor], rows: slice, columns: slice) -> None:
        diagonal = rows == columns
        split_row = min(max(self.problem.n_source - rows.start, 0), rows.stop - rows.start)
        split_column = min(max(self.problem.n_source - columns.start, 0), columns.stop - columns.start)
        images = 1 if diagonal else 2  # an off-diagonal tile stands for its mirror image too
        for term, kernel in enumerate(terms):
            if diagonal:
                kernel = kernel.clone().fill_diagonal_(0)
            top, bottom = kernel[:split_row], kernel[split_row:]
            self.sums[0, term] += images * top[:, :split_column].sum(dtype=self.accumulation)
            self.sums[1, term] += images * bottom[:, split_column:].sum(dtype=self.accumulation)
            self.sums[2, term] += top[:, split_column:].sum(dtype=self.accumulation)


class _FormTensors:
    """W, W A where it is known, in the accumulation dtype, and ``K W`` where it is wanted."""

    def __init__(self, form: Form, dtype: torch.dtype) -> None:
        self.w = form.w.to(dtype)
        self.wa = None if form.a is None else form.times_a(self.w.to(form.a.dtype))
        self.kw = torch.zeros_like(self.w) if form.needs_rows else None

    def add_rows(self, kernel: Tensor, rows: slice, columns: slice) -> None:
        if self.kw is None:
            return
        diagonal = rows == columns
        if diagonal:
            kernel = kernel.clone().fill_diagonal_(0)
        self.kw[rows] += kernel @ self.w[columns]
        if not diagonal:
            self.kw[columns] += kernel.T @ self.w[rows]
