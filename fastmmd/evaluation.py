"""From checked arguments to a differentiable loss: bandwidths, the problem, and the way that a call takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastmmd import autograd, checks, custom_op, dispatch, learned_weights, linear_time, transforms
from fastmmd.backends import reference
from fastmmd.bandwidth import given_bandwidths
from fastmmd.call import Call, Evaluation, Form
from fastmmd.gaussian import Gaussian
from fastmmd.problem import Objective

# Makes the weights of pairs once the layers are known to be good: from (sources, targets, estimator).
FormMaker = Callable[[Sequence[Tensor], Sequence[Tensor], str], Form]


def evaluate(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    *,
    joint: float,
    marginal: float | Sequence[float],
    estimator: str,
    backend: str,
    precision: str | None,
    make_form: FormMaker | None = None,
    clamp: bool = True,
) -> Evaluation:
    """``joint * product term + sum_l marginal[l] * term of layer l`` with its statistics, after all checks.

    make_form: the weights of pairs; None: they depend on the domains alone.
    clamp: whether a biased loss is known to be never negative.

    Raises:
        ValueError, TypeError, RuntimeError: as `fastmmd.discrepancy`.
    """
    checks.check_not_traced()
    checks.check_layers(sources, targets)
    kernels = checks.check_kernels(kernels, len(sources))
    joint, marginals = checks.check_weights(joint, marginal, len(sources))
    checks.check_options(estimator, precision)
    checks.check_sizes(estimator, sources[0].shape[0], targets[0].shape[0])
    dispatch.check(backend, sources[0].device)
    form = None if make_form is None else make_form(sources, targets, estimator)
    return evaluate_checked(
        sources,
        targets,
        kernels,
        Objective(tuple([kernel.static for kernel in kernels]), joint, marginals, estimator, form is not None, clamp),
        backend=backend,
        precision=precision,
        form=form,
    )


def evaluate_checked(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    objective: Objective,
    *,
    backend: str,
    precision: str | None,
    form: Form | None,
) -> Evaluation:
    """The same of arguments that are known to be good. Where there is a form, `targets` may have no rows."""
    bandwidths = None
    if any(kernel.needs_bandwidth for kernel in objective.kernels):
        bandwidths = given_bandwidths(kernels, sources, targets)
    if not any(isinstance(kernel.weights, Tensor) for kernel in kernels):
        return _compute(objective, sources, targets, bandwidths, backend, precision, form)

    checks.check_devices_of_weights(kernels, sources[0].device)

    def joint_mmd(layers: slice, kernels: Sequence[Gaussian]) -> Evaluation:
        static = tuple([kernel.static for kernel in kernels])
        part = objective._replace(kernels=static, joint=1.0, marginal=(0.0,) * len(kernels))
        part_bandwidths = None if bandwidths is None else bandwidths[layers]
        return _compute(part, sources[layers], targets[layers], part_bandwidths, backend, precision, form)

    return learned_weights.weighted_sum(joint_mmd, kernels, objective.joint, objective.marginal)


def _compute(
    objective: Objective,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
    form: Form | None,
) -> Evaluation:
    """The estimator's own way, the dense reference, a custom op, or a backend's one pass."""
    is_linear_time = objective.estimator in linear_time.ESTIMATORS
    inputs = (*sources, *targets)
    if not is_linear_time and backend != "reference" and transforms.active(bandwidths, *(form or ())[:2], *inputs):
        return custom_op.evaluate_traced(objective, bandwidths, inputs, backend, precision, form)
    call = Call(
        problem=objective.problem(sources[0].shape[0], targets[0].shape[0]),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=tuple([x.requires_grad for x in inputs]) if torch.is_grad_enabled() else (False,) * len(inputs),
        precision=precision,
        form=form,
    )
    if is_linear_time:
        return linear_time.estimate(call, objective.estimator)
    if backend == "reference":
        return reference.differentiable(call)
    return autograd.evaluate(call, backend)
