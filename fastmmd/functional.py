"""The losses as functions: `mmd`, `jmmd`, and `discrepancy`, of which both are special cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd import autograd, checks, custom_op, dispatch, learned_weights, linear_time, transforms
from fastmmd.backends import reference
from fastmmd.bandwidth import given_bandwidths
from fastmmd.call import Call, Evaluation
from fastmmd.gaussian import Gaussian
from fastmmd.problem import Objective

# JAN's layers: a feature layer and the softmax output (Long et al. 2017 and its released code).
JAN_KERNELS = (Gaussian(), Gaussian(1.68, (1,)))


class Discrepancy(NamedTuple):
    """The loss and its terms, from one pass over the Gram matrices; what `discrepancy` returns.

    Args:
        loss: 0-d, ``joint_weight * joint + sum_l marginal_weight[l] * marginals[l]``; carries the gradient.
        joint: 0-d, the squared JMMD of all layers; detached, as are the rest.
        marginals: ``[L]``, the squared MMD of each layer.
        bandwidths: ``[L]``, the B of each layer.

    Example:
        >>> import torch, fastmmd
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> fastmmd.discrepancy([x], [x + 1], [fastmmd.Gaussian(1.0, (1,))])._fields
        ('loss', 'joint', 'marginals', 'bandwidths')
    """

    loss: Tensor
    joint: Tensor
    marginals: Tensor
    bandwidths: Tensor


def discrepancy(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian] = JAN_KERNELS,
    *,
    joint: float = 1.0,
    marginal: float | Sequence[float] = 0.0,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
) -> Discrepancy:
    """``joint * JMMD(all layers) + sum_l marginal[l] * MMD(layer l)`` in one pass.

    He & Ding 2020, eqs. 7, 10-13: with ``joint`` = lambda and ``marginal`` = eta this is their whole transfer term.

    Args:
        sources: one ``[n_s, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        targets: one ``[n_t, d_l]`` tensor per layer; n_t may differ from n_s.
        kernels: one `Gaussian` per layer. The default is JAN's for (features, softmax outputs).
        joint: weight of the joint term, >= 0.
        marginal: weights of the marginal terms, >= 0: one number, or one per layer.
        estimator: ``"biased"`` (V-statistic, the papers'; never negative), ``"unbiased"`` (U-statistic),
            ``"linear"`` (disjoint pairs) or ``"circular"`` (overlapping pairs); the last two cost O(n d), need
            n_s = n_t and are plain torch, whatever the backend.
        backend: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"`` or ``"reference"`` (dense).
        precision: the least precise format that fp32 matrix products may use, ``"ieee"``, ``"tf32x3"``, ``"tf32"`` or
            ``"bf16"``; None follows torch's own setting for the device (on CUDA "medium" means TF32). On a CPU products
            are always exact fp32.

    Returns:
        `Discrepancy`, in fp32 (fp64 if any input is fp64). Gradients have their input's dtype.

    Raises:
        ValueError, TypeError: a bad argument, named in the message; a problem that the named backend does not support.
        RuntimeError: the named backend can't run here; a derivative that it can't give is asked for.

    Example:
        >>> import torch, fastmmd
        >>> features, softmax = torch.zeros(4, 2), torch.full((4, 3), 1 / 3)
        >>> terms = fastmmd.discrepancy((features, softmax), (features + 1, softmax), joint=0.2, marginal=(0.3, 0.0))
        >>> terms.bandwidths
        tensor([1.1429, 1.6800])
        >>> bool(torch.isclose(terms.loss, 0.2 * terms.joint + 0.3 * terms.marginals[0]))
        True
    """
    loss, statistics = _evaluate(sources, targets, kernels, joint, marginal, estimator, backend, precision)
    layers = len(sources)
    return Discrepancy(loss, statistics[0], statistics[1 : 1 + layers], statistics[1 + layers :])


def _evaluate(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    joint: float,
    marginal: float | Sequence[float],
    estimator: str,
    backend: str,
    precision: str | None,
) -> Evaluation:
    """Checks the arguments of `discrepancy`, and computes the bandwidths that backends can't."""
    checks.check_not_traced()
    checks.check_layers(sources, targets)
    kernels = checks.check_kernels(kernels, len(sources))
    joint, marginals = checks.check_weights(joint, marginal, len(sources))
    checks.check_options(estimator, precision)
    checks.check_sizes(estimator, sources[0].shape[0], targets[0].shape[0])
    dispatch.check(backend, sources[0].device)

    static = tuple([kernel.static for kernel in kernels])
    objective = Objective(static, joint, marginals, estimator)
    bandwidths = None
    if any(kernel.needs_bandwidth for kernel in static):
        bandwidths = given_bandwidths(kernels, sources, targets)
    if not any(isinstance(kernel.weights, Tensor) for kernel in kernels):
        return _compute(objective, sources, targets, bandwidths, backend, precision)

    checks.check_devices_of_weights(kernels, sources[0].device)

    def joint_mmd(layers: slice, kernels: Sequence[Gaussian]) -> Evaluation:
        part = Objective(tuple([kernel.static for kernel in kernels]), 1.0, (0.0,) * len(kernels), estimator)
        part_bandwidths = None if bandwidths is None else bandwidths[layers]
        return _compute(part, sources[layers], targets[layers], part_bandwidths, backend, precision)

    return learned_weights.weighted_sum(joint_mmd, kernels, joint, marginals)


def _compute(
    objective: Objective,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
) -> Evaluation:
    """The estimator's own way, the dense reference, the custom op, or a backend's one pass."""
    is_linear_time = objective.estimator in linear_time.ESTIMATORS
    inputs = (*sources, *targets)
    if not is_linear_time and backend != "reference" and transforms.active(bandwidths, *inputs):
        return custom_op.evaluate_traced(objective, bandwidths, inputs, backend, precision)
    call = Call(
        problem=objective.problem(sources[0].shape[0], targets[0].shape[0]),
        sources=sources,
        targets=targets,
        bandwidths=bandwidths,
        needs_grad=tuple([x.requires_grad for x in inputs]) if torch.is_grad_enabled() else (False,) * len(inputs),
        precision=precision,
    )
    if is_linear_time:
        return linear_time.estimate(call, objective.estimator)
    if backend == "reference":
        return reference.differentiable(call)
    return autograd.evaluate(call, backend)


def _distance(squared: Tensor, kernels: Sequence[Gaussian]) -> Tensor:
    """The square root. An estimate within round-off of 0, or below, counts as 0 and has gradient 0: the root of
    round-off would not be small, and its gradient would be anything."""
    tolerance: float | Tensor = torch.finfo(squared.dtype).eps
    for kernel in kernels:
        tolerance = tolerance * kernel.size
    zero = squared <= tolerance
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def mmd(
    source: Tensor,
    target: Tensor,
    kernel: Gaussian = JAN_KERNELS[0],
    *,
    squared: bool = True,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """The squared MMD between two samples (Gretton et al. 2012; He & Ding 2020, eq. 7).

    Args:
        source: ``[n_s, d]``, fp16, bf16, fp32 or fp64. Never written.
        target: ``[n_t, d]``.
        kernel: the `Gaussian`.
        squared: False gives the MMD itself, whose gradient is 0 where the samples are equal. Estimates below 0, which
            only the biased estimator never gives, count as 0.
        estimator, backend, precision: as those of `discrepancy`.

    Returns:
        0-d, in fp32 (fp64 if any input is fp64).

    Raises:
        ValueError, TypeError, RuntimeError: as `discrepancy`.

    Example:
        >>> import torch, fastmmd
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> fastmmd.mmd(x, x + 1, fastmmd.Gaussian(1.0, (1,)))
        tensor(0.4908)
        >>> fastmmd.mmd(x, x, squared=False)
        tensor(0.)
    """
    kernels = checks.check_kernel(kernel)
    checks.check_flag("squared", squared)
    loss, _ = _evaluate((source,), (target,), kernels, 1.0, 0.0, estimator, backend, precision)
    return loss if squared else _distance(loss, kernels)


def jmmd(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian] = JAN_KERNELS,
    *,
    squared: bool = True,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """The squared joint MMD over all layers (Long et al. 2017; He & Ding 2020, eq. 10).

    Args:
        sources: one ``[n_s, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        targets: one ``[n_t, d_l]`` tensor per layer.
        kernels: one `Gaussian` per layer. The default is JAN's for (features, softmax outputs).
        squared: as that of `mmd`.
        estimator, backend, precision: as those of `discrepancy`.

    Returns:
        0-d, in fp32 (fp64 if any input is fp64).

    Raises:
        ValueError, TypeError, RuntimeError: as `discrepancy`.

    Example:
        >>> import torch, fastmmd
        >>> features, probs = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5, 0.5], [0.1, 0.9]])
        >>> kernels = (fastmmd.Gaussian(1.0, (1,)), fastmmd.Gaussian(1.68, (1,)))
        >>> fastmmd.jmmd((features, probs), (features + 1, probs), kernels)
        tensor(0.5153)
    """
    checks.check_flag("squared", squared)
    loss, _ = _evaluate(sources, targets, kernels, 1.0, 0.0, estimator, backend, precision)
    return loss if squared else _distance(loss, kernels)
