"""From a problem and tensors to a loss with its gradient, eagerly: one autograd Function around a backend's one pass.

The loss is a scalar, so its gradient is computed in the forward pass, saved, and scaled out of place in backward: right
for every ``grad_output``, for ``retain_graph`` and under CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastmmd import conditioning, dispatch
from fastmmd.backends import reference
from fastmmd.centring import pooled
from fastmmd.dtypes import compute_dtype
from fastmmd.problem import Problem
from fastmmd.transforms import is_batched

WORST_DOT = 2e-5  # relative round-off that the gradient of a bandwidth may have on a CPU


def run_backend(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """fastmmd.backends' `run` of the named backend."""
    name = dispatch.choose(backend, sources[0].device, problem)
    conditioning.watch(problem, sources, targets, bandwidths, name)
    return dispatch.module(name).run(problem, sources, targets, bandwidths, needs_grad, precision)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, problem: Problem, backend: str, precision: str | None, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = len(inputs) // 2
        wants_bandwidths, *wants = ctx.needs_input_grad[3:]
        needs = (True,) * (2 * layers) if wants_bandwidths else wants
        loss, report, gradients = run_backend(
            problem, inputs[:layers], inputs[layers:], bandwidths, needs, backend, precision
        )
        of_bandwidths = None
        if wants_bandwidths:
            assert bandwidths is not None
            of_bandwidths = bandwidth_gradient(problem, inputs, gradients, bandwidths, backend, precision)
            gradients = [g if want else None for g, want in zip(gradients, wants, strict=True)]
        ctx.problem = problem
        ctx.dtypes = [None if x is None else x.dtype for x in (bandwidths, *inputs)]
        # Inference tensors can't be saved, copies of them can.
        kept = [x.clone() if x.is_inference() else x for x in inputs]
        ctx.save_for_backward(of_bandwidths, *gradients, bandwidths, *kept)
        ctx.mark_non_differentiable(report)
        ctx.set_materialize_grads(False)  # no zeros for the report
        return loss, report

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if grad_loss is None:
            return (None,) * (3 + len(ctx.dtypes))
        twice = torch.is_grad_enabled()  # create_graph=True: the result may be differentiated again
        gradients, variables = _saved(ctx, len(ctx.dtypes), twice)
        if twice:
            return (None, None, None, *_Gradients.apply(ctx.problem, grad_loss, *gradients, *variables))
        return (None, None, None, *scale(grad_loss, gradients, ctx.dtypes))


def _saved(ctx: Any, count: int, with_variables: bool) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The first `count` saved tensors, which are gradients, and if asked for the inputs behind them.

    Each is looked at once, as checkpointing demands, and inputs only for a second derivative: a layer behind the loss
    may have changed them in place (``nn.ReLU(inplace=True)``), which is an error then and only then. torch versions
    that open all saved tensors or none refuse the first derivative of such an input too.
    """
    handles = () if torch.compiler.is_compiling() else ctx._raw_saved_tensors  # compiled autograd has none
    if not handles or not hasattr(handles[0], "unpack"):
        tensors = ctx.saved_tensors
        return tensors[:count], tensors[count:]
    gradients = [handle.unpack() for handle in handles[:count]]
    return gradients, [handle.unpack() for handle in handles[count:]] if with_variables else ()


def scale(
    grad_loss: Tensor, gradients: Sequence[Tensor | None], dtypes: Sequence[torch.dtype | None]
) -> list[Tensor | None]:
    """grad_loss * gradient in the variable's dtype, on a GPU by one launch in all. The product comes before the cast: a
    loss scale must reach fp16 gradients before they are rounded."""
    wanted = [g for g in gradients if g is not None]
    # is_grads_batched=True hands over many grad_loss at once, for which the one launch has no rule.
    scaled = [grad_loss * g for g in wanted] if is_batched(grad_loss) else torch._foreach_mul(wanted, grad_loss)
    found = iter(scaled)
    return [None if g is None else _cast(next(found), dtype) for g, dtype in zip(gradients, dtypes, strict=True)]


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


class _Gradients(torch.autograd.Function):
    """The saved gradients, scaled; their own derivatives come from the dense reference, and only if they are asked for.

    Arguments: problem, grad_loss, then gradients and variables (bandwidths first, then the 2 L layers).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, problem: Problem, grad_loss: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        half = len(tensors) // 2
        gradients, variables = tensors[:half], tensors[half:]
        ctx.problem, ctx.wanted = problem, [g is not None for g in gradients]
        ctx.save_for_backward(grad_loss, *variables)
        ctx.set_materialize_grads(False)
        return tuple(scale(grad_loss, gradients, [None if x is None else x.dtype for x in variables]))

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_loss, *variables = ctx.saved_tensors
        with torch.enable_grad():
            # Views of its own for every argument: an input may depend on another one, and only the direct dependence
            # belongs here.
            grad_loss = grad_loss.view_as(grad_loss)
            bandwidths = None if variables[0] is None else variables[0].view_as(variables[0])
            inputs = [x.view_as(x) for x in variables[1:]]
            slots = (bandwidths, *inputs)
            layers, dtype = len(inputs) // 2, compute_dtype(*inputs)
            wide = [x.to(dtype) for x in inputs]
            loss, _ = reference.evaluate(ctx.problem, wide[:layers], wide[layers:], bandwidths)
            wanted = [x for x, want in zip(slots, ctx.wanted, strict=True) if want and x is not None]
            first = torch.autograd.grad(loss, wanted, grad_loss, create_graph=True)
            given = [v for v, want in zip(vectors, ctx.wanted, strict=True) if want]
            pairs = [(f, v) for f, v in zip(first, given, strict=True) if v is not None and f.requires_grad]
        free = [x for x in (grad_loss, *slots) if x is not None and x.requires_grad]
        second = torch.autograd.grad(
            [f for f, _ in pairs],
            free,
            [v for _, v in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        found = iter(second)
        of_grad_loss, *of_slots = (
            next(found) if x is not None and x.requires_grad else None for x in (grad_loss, *slots)
        )
        return None, of_grad_loss, *(None for _ in slots), *of_slots


def bandwidth_gradient(
    problem: Problem,
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    bandwidths: Tensor,
    backend: str,
    precision: str | None,
) -> Tensor:
    """``dL/dB_l = -<Z_l, dL/dZ_l> / (2 B_l)``, [L]: distances scale with the square of Z, kernels see only D / B.

    The sum is taken of centred rows; the gradient's rows add up to 0, so the shift changes nothing but round-off. Where
    that round-off counts, which a CPU can see at once, everything is computed again in fp64.
    """
    dots, noises = _inner_products(inputs, gradients, bandwidths.dtype)
    widens = bandwidths.dtype == torch.float64 and compute_dtype(*inputs) == torch.float32
    if widens and bandwidths.device.type == "cpu" and bool((noises > WORST_DOT * dots.abs()).any()):
        layers, wide = len(problem.layers), [x.double() for x in inputs]
        needs = (True,) * len(wide)
        _, _, again = run_backend(problem, wide[:layers], wide[layers:], bandwidths, needs, backend, precision)
        dots, _ = _inner_products(wide, again, bandwidths.dtype)
    # At bandwidth 0 the kernel is its limit, and nothing moves.
    return torch.where(bandwidths == 0, 0.0, dots / (-2 * bandwidths))


def _inner_products(
    inputs: Sequence[Tensor], gradients: Sequence[Tensor | None], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``<Z_l, dL/dZ_l>`` of each layer, [L], and the round-off that its terms can bring."""
    layers = len(inputs) // 2
    dots, noises = [], []
    for source, target, *both in zip(
        inputs[:layers], inputs[layers:], gradients[:layers], gradients[layers:], strict=True
    ):
        gradient = torch.cat(both)  # type: ignore[arg-type]
        z = pooled(source, target, gradient.dtype)
        dots.append((z * gradient).sum(dtype=dtype))
        norms = z.norm(dim=1) * gradient.norm(dim=1)
        noises.append(torch.finfo(gradient.dtype).eps * norms.sum(dtype=dtype))
    return torch.stack(dots), torch.stack(noises)


def evaluate(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """The loss (0-d, differentiable) and the report ``[1 + 2 L]`` (joint, marginals, bandwidths).

    Raises:
        RuntimeError: an input carries a forward-mode tangent.
    """
    inputs = (*sources, *targets)
    refuse_tangents((bandwidths, *inputs))
    wants_grad = torch.is_grad_enabled() and (
        any(x.requires_grad for x in inputs) or (bandwidths is not None and bandwidths.requires_grad)
    )
    if wants_grad:
        return _Fused.apply(problem, backend, precision, bandwidths, *inputs)
    loss, report, _ = run_backend(problem, sources, targets, bandwidths, (False,) * len(inputs), backend, precision)
    return loss, report


def refuse_tangents(inputs: Sequence[Tensor | None]) -> None:
    """Forward-mode differentiation would be lost without a word in a backend."""
    if forward_ad._current_level >= 0 and any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in inputs
    ):
        raise RuntimeError("fastmmd: forward-mode differentiation needs backend='reference'")
