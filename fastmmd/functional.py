"""The losses as functions: `mmd`, `jmmd`, and `discrepancy`, of which both are special cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd import checks, sample_weights
from fastmmd.evaluation import evaluate
from fastmmd.gaussian import Gaussian

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
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
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
        source_weights: ``[n_s]``, floating-point and non-negative: how much each row counts, divided by their sum.
            They receive their gradient. None: all rows count alike. A row of weight 0 leaves the means and sums, but
            bandwidth rules see all rows alike. Estimators "linear" and "circular" take none.
        target_weights: ``[n_t]``, likewise.

    Returns:
        `Discrepancy`, in fp32 (fp64 if any input is fp64). Gradients have their input's dtype.

    Raises:
        ValueError, TypeError: a bad argument, named in the message; a problem that the named backend does not support;
            weights that add up to 0, that are negative, or that leave "unbiased" a single row (where they can be read,
            eagerly on a CPU; elsewhere a sum of 0 gives NaN, and negative weights count as they are).
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
    loss, statistics, _ = evaluate(
        sources,
        targets,
        kernels,
        joint=joint,
        marginal=marginal,
        estimator=estimator,
        backend=backend,
        precision=precision,
        make_form=sample_weights.form_maker(source_weights, target_weights),
    )
    layers = len(sources)
    return Discrepancy(loss, statistics[0], statistics[1 : 1 + layers], statistics[1 + layers :])


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
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """The squared MMD between two samples (Gretton et al. 2012; He & Ding 2020, eq. 7).

    Args:
        source: ``[n_s, d]``, fp16, bf16, fp32 or fp64. Never written.
        target: ``[n_t, d]``.
        kernel: the `Gaussian`.
        squared: False gives the MMD itself, whose gradient is 0 where the samples are equal. Estimates below 0, which
            only the biased estimator never gives, count as 0.
        estimator, backend, precision, source_weights, target_weights: as those of `discrepancy`.

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
    return jmmd(
        (source,),
        (target,),
        checks.check_kernel(kernel),
        squared=squared,
        estimator=estimator,
        backend=backend,
        precision=precision,
        source_weights=source_weights,
        target_weights=target_weights,
    )


def jmmd(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian] = JAN_KERNELS,
    *,
    squared: bool = True,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """The squared joint MMD over all layers (Long et al. 2017; He & Ding 2020, eq. 10).

    Args:
        sources: one ``[n_s, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        targets: one ``[n_t, d_l]`` tensor per layer.
        kernels: one `Gaussian` per layer. The default is JAN's for (features, softmax outputs).
        squared: as that of `mmd`.
        estimator, backend, precision, source_weights, target_weights: as those of `discrepancy`.

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
    loss = evaluate(
        sources,
        targets,
        kernels,
        joint=1.0,
        marginal=0.0,
        estimator=estimator,
        backend=backend,
        precision=precision,
        make_form=sample_weights.form_maker(source_weights, target_weights),
    ).loss
    return loss if squared else _distance(loss, kernels)
