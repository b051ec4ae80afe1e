"""Backend "reference": the dense, differentiable form, the oracle of every other backend and the way to second
derivatives.

Distances come from differences, so nothing cancels; memory is O(N^2 max_l d_l). Plain torch: autograd, functorch and
torch.compile see through it, so it has no hand-written gradient.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastmmd.call import Call, Evaluation, Form, Result
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
        evaluation = differentiable(call._replace(sources=inputs[:layers], targets=inputs[layers:]))
    loss = evaluation.loss
    variables = [x for x in inputs if x.requires_grad]
    gradients = iter(torch.autograd.grad(loss, variables) if variables else ())
    in_order = [next(gradients).to(loss.dtype) if x.requires_grad else None for x in inputs]
    rows = None if evaluation.rows is None else evaluation.rows.detach()
    return Result(loss.detach(), evaluation.statistics, in_order, rows)


def differentiable(call: Call) -> Evaluation:
    """The loss, and the rows of a form, as autograd can differentiate them, as often as wanted."""
    problem, dtype, accumulation = call.problem, call.dtype, accumulation_dtype(call.device)
    product = torch.ones((), dtype=dtype, device=call.device)
    kernels, bandwidths = [], []
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
        kernels.append(kernel)
        bandwidths.append(bandwidth)
    others = 1 - torch.eye(problem.n, dtype=accumulation, device=call.device)
    off_diagonal = [kernel.to(accumulation) * others for kernel in (product, *kernels)]
    at_zero = [problem.product_at_zero, *[layer.at_zero for layer in problem.layers]]
    statistic = _statistic if call.form is None else partial(_weighted_statistic, form=call.form)
    values = [statistic(problem, kernel, kappa) for kernel, kappa in zip(off_diagonal, at_zero, strict=True)]
    loss = problem.combine(values)
    statistics = torch.stack([*(_clamped(problem, value) for value in values), *bandwidths]).to(dtype).detach()
    rows = None
    if call.form is not None and call.form.needs_rows:
        rows = (problem.combine(off_diagonal) @ call.form.w.to(accumulation)).to(dtype)
    return Evaluation(_clamped(problem, loss).to(dtype), statistics, rows)


def _statistic(problem: Problem, off_diagonal: Tensor, at_zero: float) -> Tensor:
    n = problem.n_source
    alpha, beta, gamma, diagonal = problem.pair_weights
    within_source, within_target = off_diagonal[:n, :n].sum(), off_diagonal[n:, n:].sum()
    return alpha * within_source + beta * within_target + gamma * off_diagonal[:n, n:].sum() + diagonal * at_zero


def _weighted_statistic(problem: Problem, off_diagonal: Tensor, at_zero: float, form: Form) -> Tensor:
    """``tr(A W^T K W)``."""
    w = form.w.to(off_diagonal.dtype)
    if form.a is None:
        return off_diagonal.new_zeros(())
    wa = form.times_a(w)
    return (wa * (off_diagonal @ w)).sum() + problem.pair_weights.diagonal * at_zero * (wa * w).sum()


def _clamped(problem: Problem, value: Tensor) -> Tensor:
    """A V-statistic's value clamped at 0, with the gradient of the value."""
    return value - value.detach().clamp(max=0) if problem.clamp else value
