"""The route for torch.compile, torch.export, functorch and tensor modes: one opaque custom op.

In eager mode an op boundary costs as much as a small loss, so eager calls go straight to the backend (evaluate.py).

The op returns its gradients, and differentiating it scales them. They count as differentiable outputs whose own
derivative is an error: a second derivative raises instead of being a silent zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd.dtypes import compute_dtype
from fastmmd.evaluate import bandwidth_gradient, refuse_tangents, run_backend
from fastmmd.problem import cached_problem
from fastmmd.transforms import functorch_active

SECOND = (
    "fastmmd: second derivatives under torch.func, torch.compile or a tensor mode need the differentiable form: pass "
    "backend='reference'"
)
FORWARD_MODE = "fastmmd: forward-mode differentiation needs backend='reference'"
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
    """``needs_grad`` and the gradients: bandwidths, sources, targets; those not needed are empty."""
    kernels, start = [], 0
    for count, rule, number, constant in zip(counts, rules, numbers, detach, strict=True):
        part = slice(start, start + count)
        kernels.append((rule or number, tuple(multipliers[part]), tuple(weights[part]), constant))
        start += count
    problem = cached_problem(
        sources[0].shape[0], targets[0].shape[0], tuple(kernels), joint, tuple(marginal), estimator
    )
    wants_bandwidths, *wants = needs_grad
    needs = [True] * len(wants) if wants_bandwidths else wants
    loss, report, gradients = run_backend(problem, sources, targets, bandwidths, needs, backend, precision or None)
    nothing = loss.new_empty(0)
    of_bandwidths = nothing
    if wants_bandwidths:
        assert bandwidths is not None
        of_bandwidths = bandwidth_gradient(
            problem, [*sources, *targets], gradients, bandwidths, backend, precision or None
        )
        gradients = [g if want else None for g, want in zip(gradients, wants, strict=True)]
    # An op's outputs must not share memory, and a backend may return parts of one buffer.
    owned = [
        nothing.clone() if g is None else g.clone() if g.untyped_storage().nbytes() > g.nbytes else g for g in gradients
    ]
    return loss, report, [of_bandwidths, *owned]


@torch.library.register_fake("fastmmd::discrepancy", lib=_library)
def _discrepancy_fake(sources, targets, bandwidths, *args):  # type: ignore[no-untyped-def]
    wants_bandwidths, *wants = args[-3]
    dtype = compute_dtype(*sources, *targets)
    loss = sources[0].new_empty((), dtype=dtype)
    report = sources[0].new_empty(1 + 2 * len(sources), dtype=dtype)
    of_bandwidths = torch.empty_like(bandwidths) if wants_bandwidths else loss.new_empty(0)
    inputs = [*sources, *targets]
    of_inputs = [x.new_empty(x.shape if need else (0,), dtype=dtype) for x, need in zip(inputs, wants, strict=True)]
    return loss, report, [of_bandwidths, *of_inputs]


def _keep_gradients(ctx: Any, gradients: Sequence[Tensor], variables: Sequence[Tensor | None]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.dtypes = [None if x is None else x.dtype for x in variables]


def _scaled(ctx: Any, needs: Sequence[bool], grad_loss: Tensor | None, others: Sequence[Any]) -> list[Tensor | None]:
    """The gradients of bandwidths, sources and targets, in their dtypes. The product comes before the cast: a loss
    scale must reach fp16 gradients before they are rounded. ``others``: gradients of the other outputs."""
    if any(g is not None for g in others):
        raise RuntimeError(SECOND)
    gradients = ctx.saved_tensors
    if grad_loss is None:
        return [None] * len(gradients)
    found: list[Tensor | None] = []
    for gradient, dtype, need in zip(gradients, ctx.dtypes, needs, strict=True):
        if need and gradient.shape == (0,):
            raise RuntimeError(NOT_COMPUTED)
        found.append((grad_loss * gradient).to(dtype) if need else None)
    return found


def _op_setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    sources, targets, bandwidths, *_ = inputs
    ctx.layers = len(sources)
    _keep_gradients(ctx, output[2], [bandwidths, *sources, *targets])


def _op_backward(ctx: Any, grad_loss: Tensor | None, grad_report: Any, grad_gradients: Any) -> tuple:
    of_sources, of_targets, of_bandwidths, *rest = ctx.needs_input_grad
    needs = [bool(of_bandwidths), *of_sources, *of_targets]
    found = _scaled(ctx, needs, grad_loss, [grad_report, *(grad_gradients or ())])
    split = 1 + ctx.layers
    return found[1:split], found[split:], found[0], *(None for _ in rest)


torch.library.register_autograd("fastmmd::discrepancy", _op_backward, setup_context=_op_setup_context, lib=_library)


class _Transformed(torch.autograd.Function):
    """The op for functorch, which does not see an op's autograd formula. Inputs: ``needs_grad``, the op's static
    arguments before and behind it, then bandwidths, then 2 L layers. Outputs: the op's, flat."""

    @staticmethod
    def forward(  # type: ignore[override]
        needs_grad: tuple, static: tuple, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        layers = len(inputs) // 2
        *kernels, backend, precision = static
        loss, report, gradients = torch.ops.fastmmd.discrepancy(
            list(inputs[:layers]), list(inputs[layers:]), bandwidths, *kernels, list(needs_grad), backend, precision
        )
        return loss, report, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, _, *variables = inputs
        _loss, report, *gradients = output
        ctx.mark_non_differentiable(report)
        _keep_gradients(ctx, gradients, variables)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: Any, *others: Any) -> tuple:  # type: ignore[override]
        return None, None, *_scaled(ctx, ctx.needs_input_grad[2:], grad_loss, others)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:  # type: ignore[override]
        raise RuntimeError(FORWARD_MODE)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, needs_grad: tuple, static: tuple, *variables: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # Inside vmap no tensor says that it requires a gradient; these, one level further out, do.
        needs = tuple(a or b for a, b in zip(needs_grad, _needs(variables), strict=True))
        if info.batch_size == 0:
            raise ValueError("fastmmd: vmap over a batch of 0 problems has no values")
        outputs = []
        for i in range(info.batch_size):
            one = [x if x is None or d is None else x.select(d, i) for x, d in zip(variables, in_dims[2:], strict=True)]
            outputs.append(_Transformed.apply(needs, static, *one))
        stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)


def _needs(variables: Sequence[Tensor | None]) -> tuple[bool, ...]:
    enabled = torch.is_grad_enabled()
    return tuple([enabled and x is not None and x.requires_grad for x in variables])


def evaluate(
    kernels: tuple[tuple, ...],
    joint: float,
    marginal: tuple[float, ...],
    estimator: str,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """As `fastmmd.evaluate.evaluate`; `kernels` holds the static part of each layer's Gaussian."""
    static = (
        [m for _, multipliers, _, _ in kernels for m in multipliers],
        [w for _, _, weights, _ in kernels for w in weights],
        [len(multipliers) for _, multipliers, _, _ in kernels],
        [rule if isinstance(rule, str) else "" for rule, _, _, _ in kernels],
        [1.0 if isinstance(rule, str) else float(rule) for rule, _, _, _ in kernels],
        [detach for _, _, _, detach in kernels],
        joint,
        list(marginal),
        estimator,
    )
    if not torch.compiler.is_compiling():
        refuse_tangents((bandwidths, *sources, *targets))
    needs = _needs((bandwidths, *sources, *targets))
    if functorch_active():
        loss, report, *_ = _Transformed.apply(
            needs, (*static, backend, precision or ""), bandwidths, *sources, *targets
        )
    else:
        loss, report, _ = torch.ops.fastmmd.discrepancy(
            list(sources), list(targets), bandwidths, *static, list(needs), backend, precision or ""
        )
    return loss, report.detach()
