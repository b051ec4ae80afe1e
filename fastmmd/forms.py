"""`kernel_forms`: many quadratic forms of one kernel matrix, which never exists as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmmd import checks, dispatch, learned_weights, transforms
from fastmmd.autograd import FORWARD_MODE, form_values, refuse_tangents, second_derivatives
from fastmmd.backends import reference
from fastmmd.bandwidth import given_bandwidths
from fastmmd.call import Call, Form
from fastmmd.custom_op import SECOND, run_op
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.gaussian import Gaussian
from fastmmd.problem import Objective

BATCHED = (
    "fastmmd: kernel_forms has no gradients of layers for is_grads_batched=True: use torch.vmap or torch.func.jacrev, "
    "or pass backend='reference'"
)


def kernel_forms(
    layers: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    w: Tensor,
    *,
    diagonal: bool = True,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """``diag(W^T K W)``: for each column w of W the sum ``sum_ij w_i w_j K_ij``, K the product of the layers' kernels.

    All forms come from one pass in O(N (d + P)) memory: the low-level door to every weighted MMD. A column of 1/n over
    a first sample and -1/m over a second one gives their squared MMD; a column per permutation gives all values of a
    permutation test. The backward pass is one more.

    Args:
        layers: one ``[N, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        kernels: one `Gaussian` per layer. Rules for the bandwidth see all N rows.
        w: ``[N, P]``, floating-point, any sign: W. The backward pass reads it and the layers again: they must not have
            been changed in place.
        diagonal: whether pairs i = j count.
        backend, precision: as those of `fastmmd.discrepancy`.

    Returns:
        ``[P]``, in fp32 (fp64 if any layer is fp64); differentiable in layers, W, bandwidths and kernel weights.
        A program of torch.export has the values alone.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
        RuntimeError: the named backend can't run here; a derivative that it can't give is asked for.

    Example:
        >>> import torch, fastmmd
        >>> z = torch.tensor([[0.0], [1.0], [1.0], [2.0]])  # two rows of one sample, then two of another
        >>> w = torch.tensor([[0.5, 0.5, -0.5, -0.5]]).T
        >>> fastmmd.kernel_forms([z], [fastmmd.Gaussian(1.0, (1,))], w)
        tensor([0.4908])
    """
    checks.check_not_traced()
    checks.check_pooled_layers(layers)
    kernels = checks.check_kernels(kernels, len(layers))
    checks.check_form(w, layers[0])
    checks.check_flag("diagonal", diagonal)
    checks.check_options("biased", precision)
    dispatch.check(backend, layers[0].device)

    dtype = compute_dtype(*layers)
    bandwidths = None
    if any(kernel.static.needs_bandwidth for kernel in kernels):
        bandwidths = given_bandwidths(kernels, layers, _no_rows(layers))
    checks.check_devices_of_weights(kernels, layers[0].device)
    total: Tensor | None = None
    for gaussians, weights in learned_weights.combinations(kernels):
        static = tuple([kernel.static for kernel in gaussians])
        objective = Objective(static, 1.0, (0.0,) * len(layers), "biased" if diagonal else "unbiased", weighted=True)
        plan = _Plan(objective, backend, precision)
        forms = _forms(plan, bandwidths, w.to(dtype), layers)
        term = learned_weights.times(forms, weights)
        total = term if total is None else total + term
    assert total is not None
    return total


class _Plan(NamedTuple):
    """What does not change with the values of tensors."""

    objective: Objective
    backend: str
    precision: str | None


def _forms(plan: _Plan, bandwidths: Tensor | None, w: Tensor, layers: Sequence[Tensor]) -> Tensor:
    if plan.backend == "reference":
        return _dense(plan, bandwidths, w, layers)
    variables: list[Tensor | None] = [bandwidths, w, *layers]
    if not torch.compiler.is_compiling():
        refuse_tangents(variables)
        if torch.is_grad_enabled():  # inference tensors can't be saved for the backward pass, copies of them can
            variables = [x.clone() if x is not None and x.is_inference() else x for x in variables]
    function = _TransformedForms if transforms.functorch_active() else _Forms
    return function.apply(plan, *variables)[0]


def _dense(plan: _Plan, bandwidths: Tensor | None, w: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The forms as autograd can differentiate them, as often as wanted."""
    call = Call(
        problem=plan.objective.problem(len(w), 0),
        sources=layers,
        targets=_no_rows(layers),
        bandwidths=bandwidths,
        needs_grad=[False] * 2 * len(layers),
        form=Form(w, None, needs_rows=True),
    )
    rows = reference.differentiable(call).rows
    assert rows is not None
    return _values(plan.objective, w, rows)[0]


def _values(objective: Objective, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The forms, and ``K W`` with the diagonal if it counts."""
    problem = objective.problem(w.shape[0], 0)
    kw = torch.add(rows, w, alpha=problem.pair_weights.diagonal * problem.at_zero)
    return form_values(w, kw, accumulation_dtype(w.device), whole=False).to(w.dtype), kw


def _no_rows(layers: Sequence[Tensor]) -> list[Tensor]:
    """The second side of a call whose rows are not divided in two."""
    return [layer.new_empty(0, layer.shape[1]) for layer in layers]


class _Forms(torch.autograd.Function):
    """Variables: bandwidths, W, then the layers. The second output is ``K W``, for the backward pass. It counts as
    differentiable, so that a second derivative, which would pass through it, is an error and no silent zero."""

    @staticmethod
    def forward(  # type: ignore[override]
        plan: _Plan, bandwidths: Tensor | None, w: Tensor, *layers: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = _run(plan, bandwidths, w, None, layers, needs_rows=True)[2]
        return _values(plan.objective, w, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.plan, *variables = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], *variables)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_forms: Tensor | None, grad_kw: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_kw is not None and not torch.compiler.is_compiling():  # a compiler's backward gets zeros for None
            raise RuntimeError(SECOND)
        kw, *variables = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[1:]
        if grad_forms is None:
            return (None,) * (1 + len(needs_grad))
        if torch.is_grad_enabled() and not transforms.active(grad_forms, *variables):
            return None, *_Gradients.apply(ctx.plan, needs_grad, grad_forms, kw.detach(), *variables)
        return None, *_gradients(ctx.plan, needs_grad, grad_forms, kw, variables)


class _Gradients(torch.autograd.Function):
    """`_gradients` under ``create_graph=True``; their own derivatives come from the dense form, and only if they are
    asked for."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, plan: _Plan, needs_grad: Sequence[bool], grad_forms: Tensor, kw: Tensor, *variables: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.plan, ctx.present = plan, needs_grad
        ctx.save_for_backward(grad_forms, *variables)
        ctx.set_materialize_grads(False)
        return tuple(_gradients(plan, needs_grad, grad_forms, kw, variables))

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_forms, *variables = ctx.saved_tensors

        def forms_of(bandwidths: Tensor | None, w: Tensor, *layers: Tensor) -> Tensor:
            return _dense(ctx.plan, bandwidths, w, layers)

        grad_grad_forms, *grads = second_derivatives(forms_of, grad_forms, variables, ctx.present, vectors)
        return None, None, grad_grad_forms, None, *grads


def _gradients(
    plan: _Plan, needs_grad: Sequence[bool], grad_forms: Tensor, kw: Tensor, variables: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of bandwidths, W and layers, in their dtypes: one more pass, with the form ``A = diag(grad)``."""
    bandwidths, w, *layers = variables
    assert w is not None
    inputs = [layer for layer in layers if layer is not None]
    bandwidths_need_grad, w_needs_grad, *layers_need_grad = needs_grad
    grad_w = 2 * kw * grad_forms if w_needs_grad else None
    if not (bandwidths_need_grad or any(layers_need_grad)):
        return [None, grad_w, *[None for _ in layers]]
    if transforms.is_batched(grad_forms) and not transforms.functorch_active():
        raise RuntimeError(BATCHED)
    a = grad_forms.to(accumulation_dtype(w.device))
    flags = [bandwidths_need_grad, *layers_need_grad]
    gradients = _run(plan, bandwidths, w, a, inputs, needs_grad=flags)[3]
    grad_bandwidths, *grad_layers = [g if needed else None for g, needed in zip(gradients, flags, strict=True)]
    cast = [None if g is None else g.to(x.dtype) for g, x in zip(grad_layers, inputs, strict=True)]
    return [grad_bandwidths, grad_w, *cast]


class _TransformedForms(_Forms):
    """The same for functorch. torch.compile takes no Function with a rule for forward mode."""

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:  # type: ignore[override]
        raise RuntimeError(FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, plan: _Plan, *variables: Tensor | None) -> tuple[tuple[Tensor, ...], tuple]:
        outputs = []
        for i in range(info.batch_size):
            pairs = zip(variables, in_dims[1:], strict=True)
            selected = [x if x is None or dim is None else x.select(dim, i) for x, dim in pairs]
            outputs.append(_TransformedForms.apply(plan, *selected))
        stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)


def _run(
    plan: _Plan,
    bandwidths: Tensor | None,
    w: Tensor,
    a: Tensor | None,
    layers: Sequence[Tensor],
    *,
    needs_rows: bool = False,
    needs_grad: Sequence[bool] = (),
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
    """`run_op`, whose gradients are those of bandwidths and layers."""
    bandwidths_need_grad, *layers_need_grad = needs_grad or [False] * (1 + len(layers))
    loss, statistics, rows, gradients = run_op(
        plan.objective,
        needs_rows,
        [bandwidths_need_grad, False, False, *layers_need_grad, *[False for _ in layers]],
        plan.backend,
        plan.precision or "",
        (bandwidths, w, a, *layers, *_no_rows(layers)),
    )
    return loss, statistics, rows, [gradients[0], *gradients[3 : 3 + len(layers)]]
