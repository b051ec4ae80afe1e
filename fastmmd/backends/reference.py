"""The dense, differentiable form: the oracle of every other backend, and the way to second derivatives.

Distances come from differences, so nothing cancels; memory is O(N^2 max_l d_l). Plain torch: autograd, functorch and
torch.compile see through it, so it has no hand-written gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd.dtypes import accumulation_dtype
from fastmmd.mixture import mixture
from fastmmd.problem import Problem


def unavailable(device: torch.device) -> str | None:
    return None


def evaluate(
    problem: Problem, sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The differentiable loss (0-d) and the detached report; arguments as in fastmmd.backends."""
    wide = accumulation_dtype(sources[0].device)
    product = torch.ones((), dtype=sources[0].dtype, device=sources[0].device)
    values, used = [], []
    for index, (layer, source, target) in enumerate(zip(problem.layers, sources, targets, strict=True)):
        z = torch.cat([source, target])
        distances = (z[:, None, :] - z[None, :, :]).square().sum(-1)
        if layer.follows_mean:
            base = distances.detach().sum(dtype=wide) / (problem.n * (problem.n - 1))
        else:
            base = torch.ones((), dtype=wide, device=z.device) if bandwidths is None else bandwidths[index]
        bandwidth = layer.unit * base
        kernel = mixture(layer, bandwidth, distances)
        product = product * kernel
        values.append(_statistic(problem, kernel, layer.at_zero))
        used.append(bandwidth)
    joint = _statistic(problem, product, problem.product_at_zero)
    loss = problem.joint * joint
    for weight, value in zip(problem.marginal, values, strict=True):
        loss = loss + weight * value
    dtype = sources[0].dtype
    report = torch.stack([_cut(problem, joint), *(_cut(problem, v) for v in values), *used]).to(dtype).detach()
    return _cut(problem, loss).to(dtype), report


def _statistic(problem: Problem, kernel: Tensor, at_zero: float) -> Tensor:
    n = problem.n_source
    alpha, beta, gamma, diagonal = problem.pair_weights
    wide = accumulation_dtype(kernel.device)
    off = kernel.to(wide) * (1 - torch.eye(problem.n, dtype=wide, device=kernel.device))
    return alpha * off[:n, :n].sum() + beta * off[n:, n:].sum() + gamma * off[:n, n:].sum() + diagonal * at_zero


def _cut(problem: Problem, value: Tensor) -> Tensor:
    """Clamp the value of a V-statistic at 0 and leave its gradient alone."""
    return value - value.detach().clamp(max=0) if problem.clamp else value
