"""The route for torch.compile, torch.export, functorch and tensor modes: one opaque custom op.

In eager mode an op boundary costs as much as a small loss, so eager calls go straight to the backend (autograd.py).

The op returns its gradients, and differentiating it scales them. They count as differentiable outputs whose own
derivative is an error: a second derivative raises instead of being a silent zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd.autograd import FORWARD_MODE, bandwidth_gradient, refuse_tangents, run_backend
from fastmmd.call import Call, Evaluation
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

_library = torch.library.Library("fastmmd", "DEF")
_library.define(
    "discrepancy(Tensor[] sources, Tensor[] targets, Tensor? bandwidths, float[] multipliers, float[] weights, "
    "int[] counts, str[] rules, float[] numbers, bool[] detach, float joint, float[] marginal, str estimator, "
    "bool[] needs_grad, str backend, str precision) -> (Tensor, Tensor, Tensor[])"
)


@torch.library.impl(_library, "discrepancy", "CompositeExplicitAutograd")
def _discrepancy_op(
    sources: list[Tensor],
    targets: list[Tensor],
    bandwidths: Tensor | None,
    multipliers: list[float],
    weights: list[float],
    counts: list[int],
    rules: list[str],
    numbers: list[float],
    detach: list[bool],
    joint: float,
    marginal: list[float],
    estimator: str,
    needs_grad: list[bool],
    backend: str,
    precision: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``needs_grad`` and the gradients: bandwidths, sources, targets; those not needed are empty. ``rules``: "" stands
    for the number. Exported programs hold these arguments, so their meaning stays."""
    kernels, start = [], 0
    for count, rule, number, detached in zip(counts, rules, numbers, detach, strict=True):
        part = slice(start, start + count)
        kernels.append(
            StaticGaussian(rule or "number", number, tuple(multipliers[part]), tuple(weights[part]), detached)
        )
        start += count
    objective = Objective(tuple(kernels), joint, tuple(marginal), estimator)
    bandwidths_need_grad, *inputs_need_grad = needs_grad
    call = Call(
        problem=objective.problem(sources[0].shape[0], targets[0].shape[0]),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=[True] * len(inputs_need_grad) if bandwidths_need_grad else inputs_need_grad,
        precision=precision or None,
    )
    loss, statistics, gradients = run_backend(call, backend)
    nothing = loss.new_empty(0)
    grad_bandwidths = nothing
    if bandwidths_need_grad:
        grad_bandwidths = bandwidth_gradient(call, gradients, backend)
        gradients = [g if needed else None for g, needed in zip(gradients, inputs_need_grad, strict=True)]
    # An op's outputs must not share memory, and a backend may return parts of one buffer.
    separate = [
        nothing.clone() if g is None else g.clone() if g.untyped_storage().nbytes() > g.nbytes else g for g in gradients
    ]
    return loss, statistics, [grad_bandwidths, *separate]


@torch.library.register_fake("fastmmd::discrepancy", lib=_library)
def _discrepancy_fake(sources, targets, bandwidths, *options):  # type: ignore[no-untyped-def]
    bandwidths_need_grad, *inputs_need_grad = options[-3]
    dtype = compute_dtype(*sources, *targets)
    loss = sources[0].new_empty((), dtype=dtype)
    statistics = sources[0].new_empty(1 + 2 * len(sources), dtype=dtype)
    grad_bandwidths = torch.empty_like(bandwidths) if bandwidths_need_grad else loss.new_empty(0)
    grad_inputs = [
        x.new_empty(x.shape if needed else (0,), dtype=dtype)
        for x, needed in zip([*sources, *targets], inputs_need_grad, strict=True)
    ]
    return loss, statistics, [grad_bandwidths, *grad_inputs]


def _keep_gradients(ctx: Any, gradients: Sequence[Tensor], variables: Sequence[Tensor | None]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.dtypes = [None if x is None else x.dtype for x in variables]


def _scaled(
    ctx: Any, needs_grad: Sequence[bool], grad_loss: Tensor | None, others: Sequence[Any]
) -> list[Tensor | None]:
    """The gradients of bandwidths, sources and targets, in their dtypes. The product comes before the cast: a loss
    scale must reach fp16 gradients before they are rounded. ``others``: gradients of the other outputs."""
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
    sources, targets, bandwidths, *_ = inputs
    ctx.layers = len(sources)
    _keep_gradients(ctx, output[2], [bandwidths, *sources, *targets])


def _op_backward(ctx: Any, grad_loss: Tensor | None, grad_statistics: Any, grad_gradients: Any) -> tuple:
    sources_need_grad, targets_need_grad, bandwidths_need_grad, *options = ctx.needs_input_grad
    needs_grad = [bool(bandwidths_need_grad), *sources_need_grad, *targets_need_grad]
    gradients = _scaled(ctx, needs_grad, grad_loss, [grad_statistics, *(grad_gradients or ())])
    split = 1 + ctx.layers
    return gradients[1:split], gradients[split:], gradients[0], *(None for _ in options)


torch.library.register_autograd("fastmmd::discrepancy", _op_backward, setup_context=_op_setup_context, lib=_library)


class _Transformed(torch.autograd.Function):
    """The op for functorch, which does not see an op's autograd formula. Inputs: ``needs_grad``, the op's options, then
    bandwidths, then 2 L layers. Outputs: the op's, flat."""

    @staticmethod
    def forward(  # type: ignore[override]
        needs_grad: tuple, options: tuple, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        layers = len(inputs) // 2
        *objective, backend, precision = options
        loss, statistics, gradients = torch.ops.fastmmd.discrepancy(
            list(inputs[:layers]), list(inputs[layers:]), bandwidths, *objective, list(needs_grad), backend, precision
        )
        return loss, statistics, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, _, *variables = inputs
        _loss, statistics, *gradients = output
        ctx.mark_non_differentiable(statistics)
        _keep_gradients(ctx, gradients, variables)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: Any, *others: Any) -> tuple:  # type: ignore[override]
        return None, None, *_scaled(ctx, ctx.needs_input_grad[2:], grad_loss, others)

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


def _needs_grad(variables: Sequence[Tensor | None]) -> tuple[bool, ...]:
    enabled = torch.is_grad_enabled()
    return tuple([enabled and x is not None and x.requires_grad for x in variables])


def evaluate_traced(
    objective: Objective, bandwidths: Tensor | None, inputs: Sequence[Tensor], backend: str, precision: str | None
) -> Evaluation:
    """As `fastmmd.autograd.evaluate`, through the op. inputs: sources, then targets."""
    kernels = objective.kernels
    flat_objective = (
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
    variables, layers = (bandwidths, *inputs), len(kernels)
    if not torch.compiler.is_compiling():
        refuse_tangents(variables)
    needs_grad, how = _needs_grad(variables), (backend, precision or "")
    if functorch_active():
        loss, statistics, *_ = _Transformed.apply(needs_grad, (*flat_objective, *how), *variables)
    else:
        loss, statistics, _ = torch.ops.fastmmd.discrepancy(
            list(inputs[:layers]), list(inputs[layers:]), bandwidths, *flat_objective, list(needs_grad), *how
        )
    return Evaluation(loss, statistics.detach())
