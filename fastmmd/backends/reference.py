"""Backend "reference": the dense, differentiable form, the oracle of every other backend and the way to second
derivatives.

Distances come from differences, so nothing cancels; memory is O(N^2 max_l d_l). Plain torch: autograd, functorch and
torch.compile see through it, so it has no hand-written gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmmd.call import Call, Evaluation, Result
from fastmmd.dtypes import accumulation_dtype
from fastmmd.mixture import mixture
from fastmmd.problem import Problem


def unavailable(device: torch.device) -> str | None:
    return None


def supports(call: Call) -> str | None:
    return None


def run(call: Call, config: None = None) -> Result:
    """Gradients by autograd."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_(needed) for x, needed in zip(call.inputs, call.needs_grad, strict=True)]
        layers = len(call.sources)
        loss, statistics = differentiable(call._replace(sources=inputs[:layers], targets=inputs[layers:]))
    variables = [x for x in inputs if x.requires_grad]
    gradients = iter(torch.autograd.grad(loss, variables) if variables else ())
    in_order = [next(gradients).to(loss.dtype) if x.requires_grad else None for x in inputs]
    return Result(loss.detach(), statistics, in_order)


def differentiable(call: Call) -> Evaluation:
    """The loss as autograd can differentiate it, as often as wanted."""
    problem, dtype, accumulation = call.problem, call.dtype, accumulation_dtype(call.device)
    product = torch.ones((), dtype=dtype, device=call.device)
    values, bandwidths = [], []
    for index, (layer, source, target) in enumerate(zip(problem.layers, call.sources, call.targets, strict=True)):
        z = torch.cat([source.to(dtype), target.to(dtype)])
        distances = (z[:, None, :] - z[None, :, :]).square().sum(-1)
        if layer.follows_mean:
            base = distances.detach().sum(dtype=accumulation) / (problem.n * (problem.n - 1))
        elif call.bandwidths is None:
            base = torch.ones((), dtype=accumulation, device=z.device)
        else:
            base = call.bandwidths[index]
        bandwidth = layer.bandwidth_scale * base
        kernel = mixture(layer, bandwidth, distances)
        product = product * kernel
        values.append(_statistic(problem, kernel, layer.at_zero))
        bandwidths.append(bandwidth)
    values = [_statistic(problem, product, problem.product_at_zero), *values]
    loss = problem.combine(values)
    statistics = torch.stack([*(_clamped(problem, value) for value in values), *bandwidths])
    return Evaluation(_clamped(problem, loss).to(dtype), statistics.to(dtype).detach())


def _statistic(problem: Problem, kernel: Tensor, at_zero: float) -> Tensor:
    n = problem.n_source
    alpha, beta, gamma, diagonal = problem.pair_weights
    accumulation = accumulation_dtype(kernel.device)
    off_diagonal = kernel.to(accumulation) * (1 - torch.eye(problem.n, dtype=accumulation, device=kernel.device))
    within_source, within_target = off_diagonal[:n, :n].sum(), off_diagonal[n:, n:].sum()
    return alpha * within_source + beta * within_target + gamma * off_diagonal[:n, n:].sum() + diagonal * at_zero


def _clamped(problem: Problem, value: Tensor) -> Tensor:
    """A V-statistic's value clamped at 0, with the gradient of the value."""
    return value - value.detach().clamp(max=0) if problem.clamp else value
