"""All pairs of several groups of rows, in one pass over one kernel matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd import checks, dispatch
from fastmmd.autograd import form_values
from fastmmd.call import Form
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.evaluation import evaluate_checked
from fastmmd.gaussian import Gaussian
from fastmmd.problem import Objective


class PairwiseMMD(NamedTuple):
    """What `pairwise_mmd` returns.

    Args:
        loss: 0-d, the weighted sum over pairs of groups; carries the gradient.
        values: ``[G, G]``, the squared MMD of every pair, 0 on the diagonal, NaN where a group has too few rows;
            detached, as are the bandwidths.
        bandwidths: ``[L]``, the B of each layer.

    Example:
        >>> import torch, fastmmd
        >>> z = torch.tensor([[0.0], [1.0], [1.0], [2.0]])
        >>> fastmmd.pairwise_mmd([z], torch.tensor([0, 0, 1, 1]), [fastmmd.Gaussian(1.0, (1,))])._fields
        ('loss', 'values', 'bandwidths')
    """

    loss: Tensor
    values: Tensor
    bandwidths: Tensor


def pairwise_mmd(
    layers: Sequence[Tensor],
    groups: Tensor,
    kernels: Sequence[Gaussian] = (Gaussian(),),
    *,
    pair_weights: Tensor | None = None,
    num_groups: int | None = None,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
) -> PairwiseMMD:
    """The squared MMD of every pair of G groups of rows: domains (DomainBed's MMD; Li et al., CVPR 2018), conditions
    (trVAE; Lotfollahi et al. 2020), classes. One pass over one kernel matrix, where a loop over pairs would compute
    each group's own part G - 1 times.

    Bandwidth rules see all rows together: with "mean" all pairs share one bandwidth, where a loop over pairs would have
    one per pair. A bandwidth that follows features lets a network lower the loss by shrinking them all, which nothing
    stops where they pass no batch norm; DomainBed and trVAE take fixed ones. Several layers make it the joint MMD of
    each pair.

    Args:
        layers: one ``[N, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64. Never written.
        groups: ``[N]``, integers in 0 .. G - 1, in any order.
        kernels: one `Gaussian` per layer.
        pair_weights: ``[G, G]``, floating-point, symmetric: the loss is the sum over g < h of ``pair_weights[g, h] *
            values[g, h]``, to which pairs with an empty group add nothing. It receives its gradient. None: the mean
            over the pairs whose groups both have rows (two, for "unbiased"), 0 if there are none.
        num_groups: G. None: as `pair_weights` says, else the largest group plus 1, which on a GPU waits for the device.
        estimator: ``"biased"`` or ``"unbiased"``.
        backend, precision: as those of `fastmmd.discrepancy`.

    Returns:
        `PairwiseMMD`, in fp32 (fp64 if any layer is fp64).

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
        RuntimeError: the named backend can't run here; a derivative that it can't give is asked for.

    Example:
        >>> import torch, fastmmd
        >>> z = torch.tensor([[0.0], [1.0], [1.0], [2.0], [5.0], [6.0]])
        >>> result = fastmmd.pairwise_mmd([z], torch.tensor([0, 0, 1, 1, 2, 2]), [fastmmd.Gaussian(1.0, (1,))])
        >>> result.values
        tensor([[0.0000, 0.4908, 1.3679],
                [0.4908, 0.0000, 1.3678],
                [1.3679, 1.3678, 0.0000]])
        >>> result.loss
        tensor(1.0755)
    """
    checks.check_not_traced()
    checks.check_pooled_layers(layers)
    kernels = checks.check_kernels(kernels, len(layers))
    checks.check_labels("groups", groups, layers[0])
    checks.check_choice("estimator", estimator, ("biased", "unbiased"))
    checks.check_options(estimator, precision)
    dispatch.check(backend, layers[0].device)
    num_groups = checks.check_groups(groups, num_groups, pair_weights)

    accumulation, dtype = accumulation_dtype(layers[0].device), compute_dtype(*layers)
    w, within, counted = _groups(groups, num_groups, estimator, accumulation)
    if pair_weights is None:
        weights = counted / (counted.sum(dtype=accumulation) / 2).clamp(min=1)
    else:
        # Symmetric to the last bit, and so is the gradient: a step along it gives symmetric weights again.
        given = pair_weights.to(accumulation)
        weights = torch.where(counted, (given + given.T) / 2, 0)
    a = torch.diag(within * weights.sum(1)) - weights
    objective = Objective(
        kernels=tuple([kernel.static for kernel in kernels]),
        joint=1.0,
        marginal=(0.0,) * len(layers),
        estimator=estimator,
        weighted=True,
        clamp=pair_weights is None,
    )
    w = w.to(dtype)
    loss, statistics, rows = evaluate_checked(
        layers,
        [layer.new_empty(0, layer.shape[1]) for layer in layers],
        kernels,
        objective,
        backend=backend,
        precision=precision,
        form=Form(w, a, needs_rows=True),
    )
    assert rows is not None
    with torch.no_grad():
        # Kernel weights that are tensors may be negative, and with them a value.
        never_negative = estimator == "biased" and not any(isinstance(kernel.weights, Tensor) for kernel in kernels)
        values = _values(w, rows.detach(), within, _at_zero(kernels, estimator))
        values = torch.where(counted, values.clamp(min=0) if never_negative else values, torch.nan)
        values = values.masked_fill(_diagonal(num_groups, w.device), 0).to(dtype)
    return PairwiseMMD(loss, values, statistics[1 + len(layers) :])


def _groups(groups: Tensor, num_groups: int, estimator: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """W ``[N, G]``, a column per group that adds up to 1; what a sum inside a group counts ``[G]``; whether a pair of
    groups has rows enough, both of them ``[G, G]``, False on the diagonal."""
    member = (groups[:, None] == torch.arange(num_groups, device=groups.device)).to(dtype)
    sizes = member.sum(0)
    if estimator == "biased":
        enough, within = sizes >= 1, torch.ones_like(sizes)
    else:  # without the diagonal n^2 pairs become n (n - 1)
        enough, within = sizes >= 2, sizes / (sizes - 1).clamp(min=1)
    counted = (enough[:, None] & enough).masked_fill(_diagonal(num_groups, groups.device), False)
    return member / sizes.clamp(min=1), within, counted


def _diagonal(size: int, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=torch.bool, device=device)


def _at_zero(kernels: Sequence[Gaussian], estimator: str) -> float | Tensor:
    """What a pair i = j counts."""
    product: float | Tensor = float(estimator == "biased")
    for kernel in kernels:
        product = product * kernel.at_zero
    return product


def _values(w: Tensor, rows: Tensor, within: Tensor, at_zero: float | Tensor) -> Tensor:
    sums = form_values(w, rows, within.dtype, whole=True)
    own = within * (sums.diagonal() + at_zero * w.to(within.dtype).square().sum(0))
    return own[:, None] + own - 2 * sums
