"""The route for torch.compile, torch.export, functorch and tensor modes: an opaque custom op, and a second one where
pairs have weights of their own.

In eager mode an op boundary costs as much as a small loss, so eager calls go straight to the backend (autograd.py).

An op returns its gradients, and differentiating it scales them. They count as differentiable outputs whose own
derivative is an error: a second derivative raises instead of being a silent zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd.autograd import FORWARD_MODE, bandwidth_gradient, form_gradients, refuse_tangents, run_backend
from fastmmd.call import Call, Evaluation, Form, Result
from fastmmd.dtypes import compute_dtype
from fastmmd.gaussian import StaticGaussian
from fastmmd.problem import Objective
from fastmmd.transforms import functorch_active

SECOND = (
    "fastmmd: second derivatives under torch.func, torch.compile or a tensor mode need the differentiable form: pass "
    "backend='reference'"
)
NOT_COMPUTED = (
    "fastmmd: this gradient was not computed: the loss was exported or traced with inputs that needed none. Export it "
    "again with example inputs (or parameters before them) that require gradients"
)
EXPORTED_FORMS = (
    "fastmmd: an exported kernel_forms has values alone, as its backward pass is not part of the program; use "
    "torch.compile, or pass backend='reference'"
)

_library = torch.library.Library("fastmmd", "DEF")
_OBJECTIVE = (
    "float[] multipliers, float[] weights, int[] counts, str[] rules, float[] numbers, bool[] detach, float joint, "
    "float[] marginal, str estimator"
)
_library.define(
    f"discrepancy(Tensor[] sources, Tensor[] targets, Tensor? bandwidths, {_OBJECTIVE}, bool[] needs_grad, "
    "str backend, str precision) -> (Tensor, Tensor, Tensor[])"
)
_library.define(
    f"quadratic_form(Tensor[] sources, Tensor[] targets, Tensor? bandwidths, Tensor w, Tensor? a, {_OBJECTIVE}, "
    "bool clamp, bool needs_rows, bool[] needs_grad, str backend, str precision) -> (Tensor, Tensor, Tensor, Tensor[])"
)


def _objective(
    multipliers: list[float],
    weights: list[float],
    counts: list[int],
    rules: list[str],
    numbers: list[float],
    detach: list[bool],
    joint: float,
    marginal: list[float],
    estimator: str,
) -> Objective:
    """From an op's arguments. ``rules``: "" stands for the number. Exported programs hold these arguments, so their
    meaning stays."""
    kernels, start = [], 0
    for count, rule, number, detached in zip(counts, rules, numbers, detach, strict=True):
        part = slice(start, start + count)
        kernels.append(
            StaticGaussian(rule or "number", number, tuple(multipliers[part]), tuple(weights[part]), detached)
        )
        start += count
    return Objective(tuple(kernels), joint, tuple(marginal), estimator)


def _flat(objective: Objective) -> tuple[Any, ...]:
    """The arguments of an op that `_objective` reads."""
    kernels = objective.kernels
    return (
        [multiplier for kernel in kernels for multiplier in kernel.multipliers],
        [weight for kernel in kernels for weight in kernel.weights],
        [len(kernel.multipliers) for kernel in kernels],
        ["" if kernel.rule == "number" else kernel.rule for kernel in kernels],
        [kernel.number for kernel in kernels],
        [kernel.detach_bandwidth for kernel in kernels],
        objective.joint,
        list(objective.marginal),
        objective.estimator,
    )


@torch.library.impl(_library, "discrepancy", "CompositeExplicitAutograd")
def _discrepancy_op(
    sources: list[Tensor], targets: list[Tensor], bandwidths: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``needs_grad`` and the gradients: bandwidths, sources, targets; those not needed are empty."""
    *flat_objective, needs_grad, backend, precision = options
    call = Call(
        problem=_objective(*flat_objective).problem(sources[0].shape[0], targets[0].shape[0]),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=needs_grad[1:],
        precision=precision or None,
    )
    result, (grad_bandwidths, _, _, *gradients) = _run(call, [needs_grad[0], False, False], backend)
    return result.loss, result.statistics, [grad_bandwidths, *gradients]


@torch.library.impl(_library, "quadratic_form", "CompositeExplicitAutograd")
def _quadratic_form_op(
    sources: list[Tensor], targets: list[Tensor], bandwidths: Tensor | None, w: Tensor, a: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """``needs_grad`` and the gradients: bandwidths, w, a, sources, targets; those not needed, and rows likewise, are
    empty."""
    *flat_objective, clamp, needs_rows, needs_grad, backend, precision = options
    objective = _objective(*flat_objective)._replace(weighted=True, clamp=clamp)
    call = Call(
        problem=objective.problem(sources[0].shape[0], targets[0].shape[0]),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=needs_grad[3:],
        precision=precision or None,
        form=Form(w, a, needs_rows or needs_grad[1] or needs_grad[2]),
    )
    result, gradients = _run(call, needs_grad[:3], backend)
    rows = result.rows if needs_rows and result.rows is not None else result.loss.new_empty(0)
    return result.loss, result.statistics, rows, gradients


def _run(call: Call, others_need_grad: list[bool], backend: str) -> tuple[Result, list[Tensor]]:
    """A backend's answer, and the gradients of bandwidths, w, a, sources and targets; those not needed are empty."""
    bandwidths_need_grad, *form_needs_grad = others_need_grad
    run = call._replace(needs_grad=[True] * len(call.needs_grad)) if bandwidths_need_grad else call
    result = run_backend(run, backend)
    nothing = result.loss.new_empty(0)
    grad_bandwidths = bandwidth_gradient(run, result.gradients, backend) if bandwidths_need_grad else None
    inputs = [g if needed else None for g, needed in zip(result.gradients, call.needs_grad, strict=True)]
    gradients = [grad_bandwidths, *form_gradients(call, result.rows, form_needs_grad), *inputs]
    # An op's outputs must not share memory, and a backend may return parts of one buffer.
    separate = [
        nothing.clone() if g is None else g.clone() if g.untyped_storage().nbytes() > g.nbytes else g for g in gradients
    ]
    return result, separate


@torch.library.register_fake("fastmmd::discrepancy", lib=_library)
def _discrepancy_fake(sources, targets, bandwidths, *options):  # type: ignore[no-untyped-def]
    return _fake((bandwidths,), sources, targets, options[-3])


@torch.library.register_fake("fastmmd::quadratic_form", lib=_library)
def _quadratic_form_fake(sources, targets, bandwidths, w, a, *options):  # type: ignore[no-untyped-def]
    needs_rows, needs_grad, *_ = options[-4:]
    loss, statistics, gradients = _fake((bandwidths, w, a), sources, targets, needs_grad)
    return loss, statistics, loss.new_empty(w.shape if needs_rows else (0,)), gradients


def _fake(others, sources, targets, needs_grad):  # type: ignore[no-untyped-def]
    dtype = compute_dtype(*sources, *targets)
    loss = sources[0].new_empty((), dtype=dtype)
    statistics = sources[0].new_empty(1 + 2 * len(sources), dtype=dtype)
    dtypes = [loss.dtype if x is None else x.dtype for x in others] + [dtype] * 2 * len(sources)
    gradients = [
        x.new_empty(x.shape, dtype=kept) if needed else loss.new_empty(0)
        for x, kept, needed in zip((*others, *sources, *targets), dtypes, needs_grad, strict=True)
    ]
    return loss, statistics, gradients


def _keep_gradients(ctx: Any, gradients: Sequence[Tensor], variables: Sequence[Tensor | None]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.dtypes = [None if x is None else x.dtype for x in variables]


def _scaled(
    ctx: Any, needs_grad: Sequence[bool], grad_loss: Tensor | None, others: Sequence[Any]
) -> list[Tensor | None]:
    """The gradients of an op's tensors, in their dtypes. The product comes before the cast: a loss scale must reach
    fp16 gradients before they are rounded. ``others``: gradients of the other outputs."""
    if any(g is not None for g in others):
        raise RuntimeError(SECOND)
    gradients = ctx.saved_tensors
    if grad_loss is None:
        return [None] * len(gradients)
    scaled: list[Tensor | None] = []
    for gradient, dtype, needed in zip(gradients, ctx.dtypes, needs_grad, strict=True):
        if needed and gradient.shape == (0,):
            raise RuntimeError(NOT_COMPUTED)
        scaled.append((grad_loss * gradient).to(dtype) if needed else None)
    return scaled


def _op_setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    sources, targets, *others = inputs
    gradients = output[-1]
    ctx.layers, ctx.others = len(sources), len(gradients) - len(sources) - len(targets)
    _keep_gradients(ctx, gradients, [*others[: ctx.others], *sources, *targets])


def _op_backward(ctx: Any, grad_loss: Tensor | None, *grad_outputs: Any) -> tuple:
    sources_need_grad, targets_need_grad, *others = ctx.needs_input_grad
    others_need_grad, options = others[: ctx.others], others[ctx.others :]
    *grad_others, grad_gradients = grad_outputs
    if any(g is not None for g in grad_others[1:]):  # of rows, which nothing but `kernel_forms` differentiates
        raise RuntimeError(EXPORTED_FORMS)
    gradients = _scaled(
        ctx,
        [*map(bool, others_need_grad), *sources_need_grad, *targets_need_grad],
        grad_loss,
        [*grad_others, *(grad_gradients or ())],
    )
    inputs = gradients[ctx.others :]
    return inputs[: ctx.layers], inputs[ctx.layers :], *gradients[: ctx.others], *(None for _ in options)


for _op in ("fastmmd::discrepancy", "fastmmd::quadratic_form"):
    torch.library.register_autograd(_op, _op_backward, setup_context=_op_setup_context, lib=_library)


def _call_op(
    objective: Objective,
    needs_rows: bool,
    needs_grad: Sequence[bool],
    backend: str,
    precision: str,
    variables: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """`run_op` by the op that the variables need."""
    bandwidths, w, a, *inputs = variables
    layers, flat = len(inputs) // 2, _flat(objective)
    sources, targets = inputs[:layers], inputs[layers:]
    if w is not None:
        return torch.ops.fastmmd.quadratic_form(
            sources, targets, bandwidths, w, a, *flat, objective.clamp, needs_rows, list(needs_grad), backend, precision
        )
    needs_grad = [needs_grad[0], *needs_grad[3:]]
    loss, statistics, (grad_bandwidths, *gradients) = torch.ops.fastmmd.discrepancy(
        sources, targets, bandwidths, *flat, needs_grad, backend, precision
    )
    rows, grad_w, grad_a = (loss.new_empty(0) for _ in range(3))
    return loss, statistics, rows, [grad_bandwidths, grad_w, grad_a, *gradients]


class _Transformed(torch.autograd.Function):
    """The ops for functorch, which does not see an op's autograd formula. Inputs: ``needs_grad``, the other arguments
    of `_call_op`, then its variables. Outputs: its own, flat."""

    @staticmethod
    def forward(  # type: ignore[override]
        needs_grad: tuple, options: tuple, *variables: Tensor | None
    ) -> tuple[Tensor, ...]:
        objective, needs_rows, backend, precision = options
        loss, statistics, rows, gradients = _call_op(objective, needs_rows, needs_grad, backend, precision, variables)
        return loss, statistics, rows, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, _, *variables = inputs
        _loss, statistics, rows, *gradients = output
        ctx.mark_non_differentiable(statistics, rows)
        _keep_gradients(ctx, gradients, variables)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *others: Any) -> tuple:  # type: ignore[override]
        _grad_statistics, _grad_rows, *grad_gradients = others
        return None, None, *_scaled(ctx, ctx.needs_input_grad[2:], grad_loss, grad_gradients)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:  # type: ignore[override]
        raise RuntimeError(FORWARD_MODE)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, needs_grad: tuple, options: tuple, *variables: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # Inside vmap no tensor says that it requires a gradient; these, one level further out, do.
        needs_grad = tuple(a or b for a, b in zip(needs_grad, _needs_grad(variables), strict=True))
        if info.batch_size == 0:
            raise ValueError("fastmmd: vmap over a batch of 0 problems has no values")
        outputs = []
        for i in range(info.batch_size):
            pairs = zip(variables, in_dims[2:], strict=True)
            selected = [x if x is None or dim is None else x.select(dim, i) for x, dim in pairs]
            outputs.append(_Transformed.apply(needs_grad, options, *selected))
        stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)


def run_op(
    objective: Objective,
    needs_rows: bool,
    needs_grad: Sequence[bool],
    backend: str,
    precision: str,
    variables: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
    """Loss, statistics, rows and gradients of variables: bandwidths, w, a (w is None: no form) and the 2 L layers. What
    is not needed is empty."""
    if functorch_active():
        options = (objective, needs_rows, backend, precision)
        loss, statistics, rows, *gradients = _Transformed.apply(tuple(needs_grad), options, *variables)
        return loss, statistics, rows, gradients
    return _call_op(objective, needs_rows, needs_grad, backend, precision, variables)


def _needs_grad(variables: Sequence[Tensor | None]) -> tuple[bool, ...]:
    enabled = torch.is_grad_enabled()
    return tuple([enabled and x is not None and x.requires_grad for x in variables])


def evaluate_traced(
    objective: Objective,
    bandwidths: Tensor | None,
    inputs: Sequence[Tensor],
    backend: str,
    precision: str | None,
    form: Form | None = None,
) -> Evaluation:
    """As `fastmmd.autograd.evaluate`, through an op. inputs: sources, then targets."""
    variables = (bandwidths, *(form or (None, None))[:2], *inputs)
    needs_rows = form is not None and form.needs_rows
    if not torch.compiler.is_compiling():
        refuse_tangents(variables)
    needs_grad = _needs_grad(variables)
    loss, statistics, rows, _ = run_op(objective, needs_rows, needs_grad, backend, precision or "", variables)
    return Evaluation(loss, statistics.detach(), rows.detach() if needs_rows else None)
