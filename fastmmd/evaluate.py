"""From a problem and tensors to a loss with its gradient: the autograd Function in eager mode, the custom op elsewhere.

The loss is a scalar, so its gradient is computed in the forward pass, saved, and scaled out of place in backward: right
for every ``grad_output``, for ``retain_graph`` and under CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd import dispatch
from fastmmd.backends import reference
from fastmmd.bandwidth import compute_dtype, pooled
from fastmmd.problem import Problem

_PRECISION_OF_TORCH = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


def run_backend(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Inputs of any supported dtypes; loss, report and gradients in the computing dtype (fp32 or fp64)."""
    dtype = compute_dtype(*sources, *targets)
    sources = [x if x.dtype == dtype else x.to(dtype) for x in sources]
    targets = [x if x.dtype == dtype else x.to(dtype) for x in targets]
    if precision is None:
        precision = _PRECISION_OF_TORCH[torch.get_float32_matmul_precision()]
    module = dispatch.module(dispatch.select(backend, sources[0].device))
    return module.run(problem, sources, targets, bandwidths, needs_grad, precision)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, problem: Problem, backend: str, precision: str | None, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = len(inputs) // 2
        wants_bandwidths = ctx.needs_input_grad[3]
        needs = (True,) * (2 * layers) if wants_bandwidths else ctx.needs_input_grad[4:]
        loss, report, gradients = run_backend(
            problem, inputs[:layers], inputs[layers:], bandwidths, needs, backend, precision
        )
        of_bandwidths = None
        if wants_bandwidths:
            assert bandwidths is not None
            of_bandwidths = bandwidth_gradient(inputs, gradients, bandwidths)
        ctx.save_for_backward(of_bandwidths, *gradients)
        # Only a second derivative reads these, so they are not "saved tensors": a feature that is changed in place
        # after the loss does no harm to the first.
        ctx.again = (problem, bandwidths, inputs, [x._version for x in inputs])
        ctx.mark_non_differentiable(report)
        return loss, report

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        problem, bandwidths, inputs, versions = ctx.again
        if torch.is_grad_enabled():  # create_graph=True
            if [x._version for x in inputs] != versions:
                raise RuntimeError("an input of the loss was changed in place: its second derivative can't be taken")
            return (None, None, None, *_differentiable_gradients(problem, bandwidths, inputs, grad_loss))
        of_bandwidths, *gradients = ctx.saved_tensors
        scaled_bandwidths = None if of_bandwidths is None else grad_loss * of_bandwidths
        return (None, None, None, scaled_bandwidths, *scale(grad_loss, gradients, inputs, ctx.needs_input_grad[4:]))


def scale(
    grad_loss: Tensor, gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], needs_grad: Sequence[bool]
) -> list[Tensor | None]:
    """grad_loss * gradient in the input's dtype. The product comes before the cast: a loss scale must reach fp16
    gradients before they are rounded."""
    return [
        (grad_loss * g).to(x.dtype) if need and g is not None else None
        for g, x, need in zip(gradients, inputs, needs_grad, strict=True)
    ]


def bandwidth_gradient(inputs: Sequence[Tensor], gradients: Sequence[Tensor | None], bandwidths: Tensor) -> Tensor:
    """``dL/dB_l = -<Z_l, dL/dZ_l> / (2 B_l)``, [L] fp64: distances scale with the square of Z, kernels see only D / B.

    The sum is taken of centred rows; the gradient's rows add up to 0, so the shift changes nothing but round-off.
    """
    layers = len(inputs) // 2
    dots = []
    for l in range(layers):  # noqa: E741
        gradient = torch.cat([gradients[l], gradients[layers + l]])  # type: ignore[list-item]
        z = pooled(inputs[l], inputs[layers + l], gradient.dtype)
        dots.append((z * gradient).sum(dtype=torch.float64))
    # At bandwidth 0 all features are equal and nothing moves.
    return torch.where(bandwidths == 0, 0.0, torch.stack(dots) / (-2 * bandwidths))


def _differentiable_gradients(
    problem: Problem, bandwidths: Tensor | None, inputs: Sequence[Tensor], grad_loss: Tensor
) -> list[Tensor | None]:
    """The same gradients as a differentiable function of everything, through the dense reference."""
    layers = len(inputs) // 2
    dtype = compute_dtype(*inputs)
    wide = [x.to(dtype) for x in inputs]
    loss, _ = reference.evaluate(problem, wide[:layers], wide[layers:], bandwidths)
    wanted = [x for x in (bandwidths, *inputs) if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
    return [next(found) if x is not None and x.requires_grad else None for x in (bandwidths, *inputs)]


def evaluate(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """The loss (0-d, differentiable) and the report ``[1 + 2 L]`` (joint, marginals, bandwidths)."""
    inputs = (*sources, *targets)
    wants_grad = torch.is_grad_enabled() and (
        any(x.requires_grad for x in inputs) or (bandwidths is not None and bandwidths.requires_grad)
    )
    if wants_grad:
        return _Fused.apply(problem, backend, precision, bandwidths, *inputs)
    loss, report, _ = run_backend(problem, sources, targets, bandwidths, (False,) * len(inputs), backend, precision)
    return loss, report
