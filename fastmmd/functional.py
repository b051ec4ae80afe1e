"""The losses as functions: `mmd`, `jmmd`, and `discrepancy`, of which both are special cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd import checks, dispatch, learned_weights, paired, tracing, transforms
from fastmmd.backends import reference
from fastmmd.bandwidth import given_bandwidths
from fastmmd.dtypes import compute_dtype
from fastmmd.evaluate import evaluate
from fastmmd.gaussian import Gaussian
from fastmmd.problem import cached_problem, make_problem, needs_bandwidth

# JAN's layers: a feature layer and the softmax output (Long et al. 2017 and its released code).
JAN_KERNELS = (Gaussian(), Gaussian(1.68, (1,)))


class Discrepancy(NamedTuple):
    """What one pass over the Gram matrix finds.

    loss: 0-d, ``joint_weight * joint + sum_l marginal_weight[l] * marginals[l]``; carries the gradient.
    joint: 0-d, the JMMD of all layers; detached, as are the rest.
    marginals: [L], the MMD of each layer.
    bandwidths: [L], the B of each layer.
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
        sources: one ``[n_s, d_l]`` tensor a layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        targets: one ``[n_t, d_l]`` tensor a layer; n_t may differ from n_s.
        kernels: one `Gaussian` a layer.
        joint: weight of the joint term, >= 0.
        marginal: weights of the marginal terms, >= 0: one number, or one a layer.
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
        ValueError, TypeError: a bad argument, named in the message.
        RuntimeError: the named backend can't run here; a derivative that it can't give is asked for.

    Example:
        >>> import torch, fastmmd
        >>> features, softmax = torch.zeros(4, 2), torch.full((4, 3), 1 / 3)
        >>> found = fastmmd.discrepancy((features, softmax), (features + 1, softmax), joint=0.2, marginal=(0.3, 0.0))
        >>> found.bandwidths
        tensor([1.1429, 1.6800])
        >>> bool(torch.isclose(found.loss, 0.2 * found.joint + 0.3 * found.marginals[0]))
        True
    """
    loss, report = _evaluate(sources, targets, kernels, joint, marginal, estimator, backend, precision)
    layers = len(sources)
    return Discrepancy(loss, report[0], report[1 : 1 + layers], report[1 + layers :])


def _evaluate(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    joint: float,
    marginal: float | Sequence[float],
    estimator: str,
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """The loss (0-d, differentiable) and the detached report ``[1 + 2 L]`` (joint, marginals, bandwidths)."""
    checks.check_not_traced()
    checks.check_layers(sources, targets)
    kernels = checks.check_kernels(kernels, len(sources))
    joint, marginals = checks.check_weights(joint, marginal, len(sources))
    checks.check_options(estimator, precision)
    checks.check_sizes(estimator, sources[0].shape[0], targets[0].shape[0])
    dispatch.check(backend, sources[0].device)

    bandwidths = given_bandwidths(kernels, sources, targets) if needs_bandwidth(kernels) else None
    if any(isinstance(kernel.weights, Tensor) for kernel in kernels):
        checks.check_devices_of_weights(kernels, sources[0].device)

        def run(layers: slice, kernels: Sequence[Gaussian]) -> tuple[Tensor, Tensor]:
            given = None if bandwidths is None else bandwidths[layers]
            static = tuple([kernel.static for kernel in kernels])
            marginals = (0.0,) * len(kernels)
            return _route(
                static, 1.0, marginals, estimator, sources[layers], targets[layers], given, backend, precision
            )

        return learned_weights.discrepancy(run, kernels, joint, marginals)
    static = tuple([kernel.static for kernel in kernels])
    return _route(static, joint, marginals, estimator, sources, targets, bandwidths, backend, precision)


def _route(
    static: tuple[tuple, ...],
    joint: float,
    marginals: tuple[float, ...],
    estimator: str,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    backend: str,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    n_source, n_target = sources[0].shape[0], targets[0].shape[0]
    make = make_problem if torch.compiler.is_compiling() else cached_problem  # a compiler would look inside the cache
    if estimator in ("linear", "circular"):
        problem = make(n_source, n_target, static, joint, marginals, "unbiased")
        return paired.discrepancy(problem, estimator, sources, targets, bandwidths)
    if backend == "reference":
        dtype = compute_dtype(*sources, *targets)
        problem = make(n_source, n_target, static, joint, marginals, estimator)
        sources, targets = [x.to(dtype) for x in sources], [x.to(dtype) for x in targets]
        return reference.evaluate(problem, sources, targets, bandwidths)
    if transforms.active(*sources, *targets, *(() if bandwidths is None else (bandwidths,))):
        return tracing.evaluate(static, joint, marginals, estimator, sources, targets, bandwidths, backend, precision)
    problem = make(n_source, n_target, static, joint, marginals, estimator)
    return evaluate(problem, sources, targets, bandwidths, backend, precision)


def _distance(squared: Tensor, kernels: Sequence[Gaussian]) -> Tensor:
    """The square root. An estimate within round-off of 0, or below, counts as 0 and has gradient 0: the root of
    round-off would not be small, and its gradient would be anything."""
    noise: float | Tensor = torch.finfo(squared.dtype).eps
    for kernel in kernels:
        noise = noise * kernel.size
    zero = squared <= noise
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
    """The squared MMD between two samples (Gretton et al. 2012; He & Ding 2020, eq. 7): 0-d.

    Args:
        source: ``[n_s, d]``.
        target: ``[n_t, d]``.
        kernel: the `Gaussian`.
        squared: False gives the MMD itself, whose gradient is 0 where the samples are equal. Estimates below 0, which
            only the biased estimator never gives, count as 0.
        estimator, backend, precision: as those of `discrepancy`, whose dtypes and errors hold too.

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
    """The squared joint MMD over all layers (Long et al. 2017; He & Ding 2020, eq. 10): 0-d.

    ``sources[l] [n_s, d_l]``, ``targets[l] [n_t, d_l]``; `squared` is `mmd`'s, the other arguments, dtypes and errors
    are those of `discrepancy`. The default kernels are JAN's for (features, softmax outputs).
    """
    checks.check_flag("squared", squared)
    loss, _ = _evaluate(sources, targets, kernels, 1.0, 0.0, estimator, backend, precision)
    return loss if squared else _distance(loss, kernels)
