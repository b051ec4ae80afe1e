"""The route for torch.compile, torch.export, functorch and tensor modes: one opaque custom op inside a Function.

In eager mode an op boundary costs as much as a small loss, so eager calls go straight to the backend (evaluate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmmd.bandwidth import compute_dtype
from fastmmd.evaluate import bandwidth_gradient, refuse_tangents, run_backend, scale
from fastmmd.problem import cached_problem
from fastmmd.transforms import active as active

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
    kernels, start = [], 0
    for count, rule, number, constant in zip(counts, rules, numbers, detach, strict=True):
        part = slice(start, start + count)
        kernels.append((rule or number, tuple(multipliers[part]), tuple(weights[part]), constant))
        start += count
    problem = cached_problem(
        sources[0].shape[0], targets[0].shape[0], tuple(kernels), joint, tuple(marginal), estimator
    )
    loss, report, gradients = run_backend(problem, sources, targets, bandwidths, needs_grad, backend, precision or None)
    # An op's outputs must not share memory, and a backend may return parts of one buffer.
    owned = [
        loss.new_empty(0) if g is None else g.clone() if g.untyped_storage().nbytes() > g.nbytes else g
        for g in gradients
    ]
    return loss, report, owned


@torch.library.register_fake("fastmmd::discrepancy", lib=_library)
def _discrepancy_fake(sources, targets, bandwidths, *args):  # type: ignore[no-untyped-def]
    needs_grad = args[-3]
    dtype = compute_dtype(*sources, *targets)
    loss = sources[0].new_empty((), dtype=dtype)
    report = sources[0].new_empty(1 + 2 * len(sources), dtype=dtype)
    inputs = [*sources, *targets]
    return (
        loss,
        report,
        [x.new_empty(x.shape if need else (0,), dtype=dtype) for x, need in zip(inputs, needs_grad, strict=True)],
    )


class _Traced(torch.autograd.Function):
    """Inputs: the op's static arguments, then bandwidths, then 2 L layers. Outputs: loss, report, and the gradients
    (of the bandwidths first), which setup_context may save only if they are outputs."""

    @staticmethod
    def forward(  # type: ignore[override]
        static: tuple, needs_grad: tuple, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        layers = len(inputs) // 2
        *kernel_args, backend, precision = static
        wants_bandwidths = needs_grad[0]
        needs = [True] * (2 * layers) if wants_bandwidths else list(needs_grad[1:])
        loss, report, gradients = torch.ops.fastmmd.discrepancy(
            list(inputs[:layers]), list(inputs[layers:]), bandwidths, *kernel_args, needs, backend, precision
        )
        of_bandwidths = loss.new_empty(0)
        if wants_bandwidths:
            assert bandwidths is not None
            of_bandwidths = bandwidth_gradient(inputs, gradients, bandwidths)
        return loss, report, of_bandwidths, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, needs_grad, *variables = inputs
        _loss, report, *gradients = output
        ctx.needs_grad = needs_grad
        ctx.mark_non_differentiable(report, *gradients)
        ctx.save_for_backward(*gradients, *variables)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        count = len(ctx.needs_grad)
        gradients, variables = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = _FirstOnly.apply(count, *gradients, *variables)
        wanted = [g if need else None for g, need in zip(gradients, ctx.needs_grad, strict=True)]
        return None, None, *scale(grad_loss, wanted, variables)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, static: tuple, needs_grad: tuple, bandwidths: Tensor | None, *inputs: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        _, _, bandwidth_dim, *dims = in_dims
        outputs = []
        for i in range(info.batch_size):
            one = [x if d is None else x.select(d, i) for x, d in zip(inputs, dims, strict=True)]
            given = bandwidths
            if bandwidths is not None and bandwidth_dim is not None:
                given = bandwidths.select(bandwidth_dim, i)
            outputs.append(_Traced.apply(static, needs_grad, given, *one))
        stacked = tuple(torch.stack(column) for column in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)


class _FirstOnly(torch.autograd.Function):
    """The gradients, tied to the layers that they depend on, so that differentiating them again is an error instead of
    a silent zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(x.clone() for x in tensors[:count] if x is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:  # type: ignore[override]
        raise RuntimeError(
            "fastmmd: second derivatives under torch.func or a tensor mode need the differentiable form: pass "
            "backend='reference'"
        )


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
        backend,
        precision or "",
    )
    if not torch.compiler.is_compiling():
        refuse_tangents((*sources, *targets))
    grad_enabled = torch.is_grad_enabled()
    needs_grad = tuple(grad_enabled and x is not None and x.requires_grad for x in (bandwidths, *sources, *targets))
    loss, report, *_ = _Traced.apply(static, needs_grad, bandwidths, *sources, *targets)
    return loss, report
