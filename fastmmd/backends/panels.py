"""Backend "torch": tiles of the Gram matrix in plain torch, on any device, in bounded memory.

For each pair of row blocks I <= J and each layer: one product gives the inner products, a few elementwise passes the
coefficients C (docs/mathematics.md), and two products add C z to the gradient of I and C^T z to that of J. Each Gram
tile is computed once. No step waits for the device.

On a CPU, where reading a number costs nothing, rows whose norms are large beside a bandwidth (`pooling.condition`) are
computed in fp64, and if that is not enough by differences. Elsewhere fastmmd.conditioning warns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd.backends import pooling
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.matmul import matmul_precision, torch_precision
from fastmmd.mixture import mixture_and_slope
from fastmmd.problem import Problem

# Everything that lives at once while a tile is processed; about 3 tensors a layer and 4 more.
WORKSPACE_BYTES = 32 << 20
# Conditions up to which a product is as good as differences: the error of a kernel is some eps times as large.
PRODUCT_CONDITION = 64.0
FP64_PRODUCT_CONDITION = 1e9  # for results in fp32


def unavailable(device: torch.device) -> str | None:
    return None


def run(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    precision: str | None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    device = sources[0].device
    precision = torch_precision(device) if precision is None else precision
    with torch.no_grad(), matmul_precision(device, precision), torch.autocast(device.type, enabled=False):
        format = "tf32" if device.type == "cuda" and precision in ("tf32", "bf16") else "ieee"
        panels = Panels(problem, sources, targets, bandwidths, needs_grad, format)
        if device.type != "cpu" or all(condition <= PRODUCT_CONDITION for condition in panels.conditions()):
            return panels.run(_side(panels))
        dtype = compute_dtype(*sources, *targets)
        sources, targets = [x.double() for x in sources], [x.double() for x in targets]
        panels = Panels(problem, sources, targets, bandwidths, needs_grad, format)
        limit = PRODUCT_CONDITION if dtype == torch.float64 else FP64_PRODUCT_CONDITION
        for index, condition in enumerate(panels.conditions()):
            if condition > limit:  # centred rows would have rounded already
                panels.apart[index] = torch.cat([sources[index], targets[index]])
        loss, report, gradients = panels.run(_side(panels))
        return loss.to(dtype), report.to(dtype), [None if g is None else g.to(dtype) for g in gradients]


def _side(panels: Panels) -> int:
    live = (3 * len(panels.z) + 4) * panels.z[0].element_size()
    return max(32, int((WORKSPACE_BYTES / live) ** 0.5) // 32 * 32)


class Panels:
    """All pairs of row blocks; a backend with a faster way for one pair overrides `_pair`."""

    def __init__(
        self,
        problem: Problem,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        bandwidths: Tensor | None,
        needs_grad: Sequence[bool],
        format: str,
    ) -> None:
        layers = len(problem.layers)
        self.problem, self.needs_grad = problem, needs_grad
        self.z, self.norms, self.bandwidths = pooling.pool(problem, sources, targets, bandwidths, format)
        self.dtype, self.device = self.z[0].dtype, self.z[0].device
        self.with_gradient = [needs_grad[i] or needs_grad[layers + i] for i in range(layers)]
        self.gradient = [torch.zeros_like(z) if g else None for z, g in zip(self.z, self.with_gradient, strict=True)]
        self.apart: list[Tensor | None] = [None] * layers  # rows whose distances are taken by differences
        # The median and a learned bandwidth may be 0, where only distance 0 counts: round-off must not hide it.
        self.may_be_zero = [bandwidths is not None and not layer.follows_mean for layer in problem.layers]
        self.wide = accumulation_dtype(self.device)
        self.sums = torch.zeros(3, layers + 1, dtype=self.wide, device=self.device)  # ss, tt, st

    def conditions(self) -> list[float]:
        """`pooling.condition` of each layer, read."""
        layers = zip(self.problem.layers, self.norms, self.bandwidths, strict=True)
        return [pooling.condition(layer, norms, bandwidth).item() for layer, norms, bandwidth in layers]

    def run(self, side: int) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        n = self.problem.n
        for i0 in range(0, n, side):
            for j0 in range(i0, n, side):
                self._pair(slice(i0, min(n, i0 + side)), slice(j0, min(n, j0 + side)))
        gradients = pooling.by_domain(self.problem, self.gradient, self.needs_grad)
        return *pooling.finish(self.problem, self.total(), self.bandwidths, self.dtype), gradients

    def total(self) -> Tensor:
        """[3, 1 + L]: over ss, tt, st, of the product and each layer's kernel."""
        return self.sums

    def _pair(self, rows: slice, columns: slice) -> None:
        problem, diagonal = self.problem, rows == columns
        kernels, slopes = [], []
        for index, layer in enumerate(problem.layers):
            distances = self._distances(index, rows, columns)
            if diagonal:
                distances.fill_diagonal_(0)
            kernel, slope = mixture_and_slope(layer, self.bandwidths[index], distances)
            kernels.append(kernel)
            slopes.append(slope)
        self._add_sums(kernels, rows, columns, diagonal)
        if not any(self.with_gradient):
            return
        weights = self._pair_weights(rows, columns)
        if diagonal:
            weights.fill_diagonal_(0)
        for index, gradient in enumerate(self.gradient):
            if gradient is None:
                continue
            factor = torch.full_like(weights, problem.joint)
            for other, kernel in enumerate(kernels):
                if other != index:
                    factor *= kernel
            coefficients = factor.add_(problem.marginal[index]).mul_(slopes[index]).mul_(weights)
            z = self.z[index]
            gradient[rows] += 4 * (coefficients @ z[columns] - coefficients.sum(1, keepdim=True) * z[rows])
            if not diagonal:
                gradient[columns] += 4 * (coefficients.T @ z[rows] - coefficients.sum(0).unsqueeze(1) * z[columns])

    def _distances(self, layer: int, rows: slice, columns: slice) -> Tensor:
        z, norms, apart = self.z[layer], self.norms[layer], self.apart[layer]
        if apart is not None:
            return torch.cdist(apart[rows], apart[columns], compute_mode="donot_use_mm_for_euclid_dist").square_()
        sums = norms[rows, None] + norms[None, columns]
        if not self.may_be_zero[layer]:
            return sums.addmm_(z[rows], z[columns].T, alpha=-2).clamp_(min=0)
        distances = torch.addmm(sums, z[rows], z[columns].T, alpha=-2)
        return distances.masked_fill_(distances <= sums.mul_(8 * torch.finfo(self.dtype).eps), 0)

    def _pair_weights(self, rows: slice, columns: slice) -> Tensor:
        alpha, beta, gamma, _ = self.problem.pair_weights
        source = torch.arange(self.problem.n, device=self.device) < self.problem.n_source
        row, column = source[rows, None], source[None, columns]
        weights = torch.full((row.shape[0], column.shape[1]), 0.5 * gamma, dtype=self.dtype, device=self.device)
        return weights.masked_fill_(row & column, alpha).masked_fill_(~row & ~column, beta)

    def _add_sums(self, kernels: list[Tensor], rows: slice, columns: slice, diagonal: bool) -> None:
        product = kernels[0]
        for kernel in kernels[1:]:
            product = product * kernel
        split_row = min(max(self.problem.n_source - rows.start, 0), rows.stop - rows.start)
        split_column = min(max(self.problem.n_source - columns.start, 0), columns.stop - columns.start)
        images = 1 if diagonal else 2  # an off-diagonal tile stands for its mirror image too
        for term, kernel in enumerate([product, *kernels]):
            if diagonal:
                kernel = kernel.clone().fill_diagonal_(0)
            top, bottom = kernel[:split_row], kernel[split_row:]
            self.sums[0, term] += images * top[:, :split_column].sum(dtype=self.wide)
            self.sums[1, term] += images * bottom[:, split_column:].sum(dtype=self.wide)
            self.sums[2, term] += top[:, split_column:].sum(dtype=self.wide)
