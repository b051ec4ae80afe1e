"""From a call to a loss with its gradient, eagerly: one autograd Function around a backend's one pass.

The loss is a scalar, so its gradient is computed in the forward pass, saved, and scaled out of place in backward: right
for every ``grad_output``, for ``retain_graph`` and under CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd import conditioning, dispatch
from fastmmd.backends import reference
from fastmmd.call import Call, Evaluation, Form, Result
from fastmmd.centring import pooled
from fastmmd.problem import Problem
from fastmmd.transforms import any_tangent, is_batched, saved_tensor_handles

WORST_DOT = 2e-5  # relative round-off that the gradient of a bandwidth may have on a CPU
FORWARD_MODE = "fastmmd: forward-mode differentiation needs backend='reference'"


def evaluate(call: Call, backend: str, config: Any = None) -> Evaluation:
    """The differentiable loss of a call. config: the backend's own (`fastmmd.backends.Backend.run`).

    Raises:
        RuntimeError: an input carries a forward-mode tangent.
        ValueError: the named backend does not support the call.
    """
    others = (call.bandwidths, *(call.form or (None, None))[:2])
    variables = (*others, *call.inputs)
    refuse_tangents(variables)
    if any(call.needs_grad) or (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in others)):
        return Evaluation(*_OnePass.apply(call, backend, config, *variables))
    result = run_backend(call, backend, config)
    return Evaluation(result.loss, result.statistics, result.rows)


def run_backend(call: Call, backend: str, config: Any = None) -> Result:
    """`Backend.run` of the named backend, or of the one that "auto" takes."""
    name = dispatch.choose(backend, call)
    conditioning.watch(call, name)
    return dispatch.BACKENDS[name].run(call, config)


class _OnePass(torch.autograd.Function):
    """Variables: bandwidths, W and A of the form, each None where there is none, then the 2 L layers."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        call: Call,
        backend: str,
        config: Any,
        bandwidths: Tensor | None,
        w: Tensor | None,
        a: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        bandwidths_need_grad, *form_needs_grad = ctx.needs_input_grad[3:6]
        layers = len(inputs) // 2
        # The tensors as this Function gets them: torch has unwrapped those that a transform has left behind.
        run = Call(
            problem=call.problem,
            sources=inputs[:layers],
            targets=inputs[layers:],
            bandwidths=bandwidths,
            needs_grad=(True,) * len(inputs) if bandwidths_need_grad else call.needs_grad,
            precision=call.precision,
            form=None if call.form is None or w is None else Form(w, a, call.form.needs_rows or any(form_needs_grad)),
        )
        result = run_backend(run, backend, config)
        gradients = [None, *form_gradients(run, result.rows, form_needs_grad), *result.gradients]
        if bandwidths_need_grad:
            gradients[0] = bandwidth_gradient(run, result.gradients, backend)
            gradients[3:] = [g if needed else None for g, needed in zip(gradients[3:], call.needs_grad, strict=True)]
        ctx.problem = call.problem
        variables = (bandwidths, w, a, *inputs)
        ctx.dtypes = [None if x is None else x.dtype for x in variables]
        # Inference tensors can't be saved, copies of them can.
        saved = [x.clone() if x is not None and x.is_inference() else x for x in variables]
        ctx.save_for_backward(*gradients, *saved)
        ctx.mark_non_differentiable(*[x for x in (result.statistics, result.rows) if x is not None])
        ctx.set_materialize_grads(False)  # no zeros for the statistics
        return result.loss, result.statistics, result.rows

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_loss: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * (3 + len(ctx.dtypes))
        twice = torch.is_grad_enabled()  # create_graph=True: the result may be differentiated again
        gradients, variables = _saved(ctx, len(ctx.dtypes), twice)
        if twice:
            return (None, None, None, *_Gradients.apply(ctx.problem, grad_loss, *gradients, *variables))
        return (None, None, None, *scale(grad_loss, gradients, ctx.dtypes))


def form_gradients(call: Call, rows: Tensor | None, needs_grad: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of ``tr(A W^T K W)`` in W, ``2 K W A``, and in A, ``W^T K W``; None where not needed."""
    if not any(needs_grad):
        return [None, None]
    form, (w_needs_grad, a_needs_grad) = call.form, needs_grad
    assert form is not None
    assert form.a is not None
    assert rows is not None
    kw = rows + call.problem.pair_weights.diagonal * call.problem.at_zero * form.w
    return [
        2 * form.times_a(kw) if w_needs_grad else None,
        form_values(form.w, kw, form.a.dtype, whole=form.a.dim() == 2) if a_needs_grad else None,
    ]


def form_values(w: Tensor, kw: Tensor, dtype: torch.dtype, *, whole: bool) -> Tensor:
    """``W^T K W`` from W and ``K W``: ``[P, P]``, or its diagonal ``[P]``, summed in `dtype`. Where P may be large, for
    the diagonal, neither is copied in that dtype."""
    return w.to(dtype).T @ kw.to(dtype) if whole else (w * kw).sum(0, dtype=dtype)


def _saved(ctx: Any, count: int, with_variables: bool) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The first `count` saved tensors, which are gradients, and if asked for the inputs behind them.

    Each is looked at once, as checkpointing demands, and inputs only for a second derivative: a layer behind the loss
    may have changed them in place (``nn.ReLU(inplace=True)``), which is an error then and only then. torch versions
    that open all saved tensors or none refuse the first derivative of such an input too.
    """
    handles = saved_tensor_handles(ctx)
    if handles is None:
        tensors = ctx.saved_tensors
        return tensors[:count], tensors[count:]
    gradients = [handle.unpack() for handle in handles[:count]]
    return gradients, [handle.unpack() for handle in handles[count:]] if with_variables else ()


def scale(
    grad_loss: Tensor, gradients: Sequence[Tensor | None], dtypes: Sequence[torch.dtype | None]
) -> list[Tensor | None]:
    """grad_loss * gradient in the variable's dtype, on a GPU by one launch in all. The product comes before the cast: a
    loss scale must reach fp16 gradients before they are rounded."""
    present = [g for g in gradients if g is not None]
    # is_grads_batched=True hands over many grad_loss at once, for which the one launch has no rule.
    multiply = _one_by_one if is_batched(grad_loss) else _foreach_mul
    scaled = iter(multiply(present, grad_loss))
    return [None if g is None else _cast(next(scaled), dtype) for g, dtype in zip(gradients, dtypes, strict=True)]


def _one_by_one(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    return [factor * x for x in tensors]


# Private: all products in one launch.
_foreach_mul = getattr(torch, "_foreach_mul", _one_by_one)


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


class _Gradients(torch.autograd.Function):
    """The saved gradients, scaled; their own derivatives come from the dense reference, and only if they are asked for.

    Arguments: problem, grad_loss, then gradients and variables (those of `_OnePass`).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, problem: Problem, grad_loss: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        half = len(tensors) // 2
        gradients, variables = tensors[:half], tensors[half:]
        ctx.problem, ctx.present = problem, [g is not None for g in gradients]
        ctx.save_for_backward(grad_loss, *variables)
        ctx.set_materialize_grads(False)
        return tuple(scale(grad_loss, gradients, [None if x is None else x.dtype for x in variables]))

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_loss, *variables = ctx.saved_tensors
        problem, half = ctx.problem, (len(variables) - 3) // 2

        def loss_of(bandwidths: Tensor | None, w: Tensor | None, a: Tensor | None, *inputs: Tensor) -> Tensor:
            call = Call(
                problem=problem,
                sources=inputs[:half],
                targets=inputs[half:],
                bandwidths=bandwidths,
                needs_grad=(True,) * len(inputs),
                form=None if w is None else Form(w, a, needs_rows=False),
            )
            return reference.differentiable(call).loss

        grad_grad_loss, *grad_variables = second_derivatives(loss_of, grad_loss, variables, ctx.present, vectors)
        return None, grad_grad_loss, *(None for _ in variables), *grad_variables


def second_derivatives(
    dense: Callable[..., Tensor],
    grad_output: Tensor,
    variables: Sequence[Tensor | None],
    present: Sequence[bool],
    vectors: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients, in `grad_output` and in the variables, of the product of `vectors` with the first derivatives of
    ``dense(*variables)``, which exist where `present`."""
    with torch.enable_grad():
        # A view per argument: an input may depend on another one, and only the direct dependence belongs here.
        grad_output = grad_output.view_as(grad_output)
        slots: list[Any] = [None if x is None else x.view_as(x) for x in variables]
        needed = [x for x, exists in zip(slots, present, strict=True) if exists]
        first = torch.autograd.grad(dense(*slots), needed, grad_output, create_graph=True)
        factors = [v for v, exists in zip(vectors, present, strict=True) if exists]
        pairs = [(f, v) for f, v in zip(first, factors, strict=True) if v is not None and f.requires_grad]
    arguments = (grad_output, *slots)
    second = torch.autograd.grad(
        [f for f, _ in pairs],
        [x for x in arguments if x is not None and x.requires_grad],
        [v for _, v in pairs],
        create_graph=torch.is_grad_enabled(),
        allow_unused=True,
    )
    derivatives = iter(second)
    return [next(derivatives) if x is not None and x.requires_grad else None for x in arguments]


def bandwidth_gradient(call: Call, gradients: Sequence[Tensor | None], backend: str) -> Tensor:
    """``dL/dB_l = -<Z_l, dL/dZ_l> / (2 B_l)``, [L]: distances scale with the square of Z, kernels see only D / B.

    `gradients` are those of all layers, and the call has bandwidths. The sum is taken of centred rows; the gradient's
    rows add up to 0, so the shift changes nothing but round-off. Where that round-off counts, which a CPU can see at
    once, everything is computed again in fp64.
    """
    bandwidths = call.bandwidths
    assert bandwidths is not None
    dots, round_off = _inner_products(call, gradients, bandwidths.dtype)
    widens = bandwidths.dtype == torch.float64 and call.dtype == torch.float32
    if widens and bandwidths.device.type == "cpu" and bool((round_off > WORST_DOT * dots.abs()).any()):
        wide = call._replace(sources=[x.double() for x in call.sources], targets=[x.double() for x in call.targets])
        dots, _ = _inner_products(wide, run_backend(wide, backend).gradients, bandwidths.dtype)
    # At bandwidth 0 the kernel is its limit, and nothing moves.
    return torch.where(bandwidths == 0, 0.0, dots / (-2 * bandwidths))


def _inner_products(call: Call, gradients: Sequence[Tensor | None], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``<Z_l, dL/dZ_l>`` of each layer, [L], and the round-off that its terms can bring."""
    layers = len(call.sources)
    dots, round_off = [], []
    for source, target, *sides in zip(call.sources, call.targets, gradients[:layers], gradients[layers:], strict=True):
        gradient = torch.cat(sides)  # type: ignore[arg-type]
        z = pooled(source, target, gradient.dtype)
        dots.append((z * gradient).sum(dtype=dtype))
        norms = z.norm(dim=1) * gradient.norm(dim=1)
        round_off.append(torch.finfo(gradient.dtype).eps * norms.sum(dtype=dtype))
    return torch.stack(dots), torch.stack(round_off)


def refuse_tangents(inputs: Sequence[Tensor | None]) -> None:
    """Forward-mode differentiation would be lost without a word in a backend."""
    if any_tangent(inputs):
        raise RuntimeError(FORWARD_MODE)
