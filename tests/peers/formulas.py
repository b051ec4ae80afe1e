"""The public MMD and JMMD losses, written as plain formulas.

Test oracles: dense, slow, and meant to be read. Every squared distance is the sum of squared
differences, every kernel matrix is built in full, and everything is differentiable, so that values
and gradients can both be compared. Bandwidths taken from the data are constants for the gradient,
as they are in the projects described. Call them with float64 tensors.

The formulas state what each project computes and share no code with it. They were compared with
the projects themselves, values and gradients (CMMD has none), in float64: tllib c4aa59eb, Xlearn
e72b2be4, DeepDA (in transferlearning) f951df11, pytorch-adapt 0.0.83, geomloss 0.3.1, DomainBed
b93c22a1, cmmd-pytorch f7673a9f, DSAN (in deep-transfer-learning) 2969ed6c and scArches 88b19dce,
the last two and DeepDA's local MMD with their float32 constants widened. trVAE 47ca834f and MinDiff
(in model-remediation) 08f6806f need TensorFlow and were read. Where a project departs from its
formula for some input, the docstring says so.

The notation is that of estimators.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from tests.peers.estimators import (
    circular_pairs,
    disjoint_pairs,
    lower_median_of_source,
    mean_all,
    mean_off_diagonal,
    pooled_squared_distances,
    require_equal_sizes,
    split,
    squared_distances,
    u_statistic,
    v_statistic,
)

# tllib -----------------------------------------------------------------------------------------


class TllibGaussianKernel(NamedTuple):
    """tllib `GaussianKernel`: exp(-D / (2 sigma^2)).

    sigma None: sigma^2 = alpha * sum D / N^2 of the pooled batch at hand (diagonal counted,
    constant for the gradient). Otherwise the fixed sigma that tllib uses with
    `track_running_stats=False`.
    """

    alpha: float = 1.0
    sigma: float | None = None

    def matrix(self, distances: Tensor) -> Tensor:
        sigma_square = self.alpha * mean_all(distances) if self.sigma is None else self.sigma * self.sigma
        return torch.exp(-distances / (2 * sigma_square))


def _tllib_loss(kernel: Tensor, n: int, linear: bool) -> Tensor:
    """U, or the circular pairs, plus 2 / (n - 1). n = m only."""
    require_equal_sizes(kernel, n)
    estimate = circular_pairs(kernel, n) if linear else u_statistic(kernel, n)
    return estimate + 2 / (n - 1)


def tllib_mk_mmd(
    source: Tensor, target: Tensor, kernels: Sequence[TllibGaussianKernel], *, linear: bool = False
) -> Tensor:
    """tllib (thuml/Transfer-Learning-Library) `MultipleKernelMaximumMeanDiscrepancy`.

    source, target [n, d]. The sum of the kernels, in the U-statistic (or with `linear=True` over
    the circular pairs), plus the constant 2 / (n - 1) in both cases.

    tllib keeps pair weights in float32 unless the default dtype is float64 (1e-7).
    """
    distances = pooled_squared_distances(source, target)
    return _tllib_loss(sum(k.matrix(distances) for k in kernels), len(source), linear)


def tllib_jmmd(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Sequence[TllibGaussianKernel]],
    *,
    linear: bool = True,
) -> Tensor:
    """tllib (thuml/Transfer-Learning-Library) `JointMultipleKernelMaximumMeanDiscrepancy`.

    One [n, d_l] tensor and one sequence of kernels per layer. Per layer the sum of its kernels,
    then the product over layers, then the loss of `tllib_mk_mmd`. `linear` is on by default.

    tllib's result is float32 for every input unless the default dtype is float64. Its `thetas` are
    linear maps applied to the features first, here left to the caller.
    """
    joint = math.prod(
        sum(k.matrix(pooled_squared_distances(s, t)) for k in layer_kernels)
        for s, t, layer_kernels in zip(sources, targets, kernels, strict=True)
    )
    return _tllib_loss(joint, len(sources[0]), linear)


# Xlearn (thuml) and DeepDA ---------------------------------------------------------------------


def xlearn_kernel(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | None = None,
) -> Tensor:
    """The kernel matrix [N, N] of Xlearn and its descendants.

    sum_i exp(-D / b_i) with b_i = b0 * kernel_mul^(i - kernel_num // 2), i = 0 .. kernel_num - 1,
    and b0 = sum D / (N^2 - N) or, where given, `fix_sigma`: itself the bandwidth, no square and no
    2.
    """
    distances = pooled_squared_distances(source, target)
    middle = fix_sigma if fix_sigma else mean_off_diagonal(distances)
    powers = range(-(kernel_num // 2), kernel_num - kernel_num // 2)
    return sum(torch.exp(-distances / (middle * kernel_mul**p)) for p in powers)


def xlearn_dan(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | None = None,
) -> Tensor:
    """Xlearn (thuml/Xlearn) `DAN`: the U-statistic of `xlearn_kernel`. source, target [n, d].

    Xlearn itself raises for n > m, and for n < m leaves the surplus target rows out of the loss but
    not out of the bandwidth; here n = m is required.
    """
    kernel = xlearn_kernel(source, target, kernel_mul, kernel_num, fix_sigma)
    require_equal_sizes(kernel, len(source))
    return u_statistic(kernel, len(source))


def xlearn_dan_linear(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | None = None,
) -> Tensor:
    """Xlearn (thuml/Xlearn) `DAN_Linear`: `xlearn_kernel` over the circular pairs. n = m."""
    kernel = xlearn_kernel(source, target, kernel_mul, kernel_num, fix_sigma)
    return circular_pairs(kernel, len(source))


def _xlearn_joint_kernel(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernel_muls: Sequence[float],
    kernel_nums: Sequence[int],
    fix_sigmas: Sequence[float | None],
) -> Tensor:
    layers = zip(sources, targets, kernel_muls, kernel_nums, fix_sigmas, strict=True)
    return math.prod(xlearn_kernel(*layer) for layer in layers)


def xlearn_jan(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernel_muls: Sequence[float] = (2.0, 2.0),
    kernel_nums: Sequence[int] = (5, 1),
    fix_sigmas: Sequence[float | None] = (None, 1.68),
) -> Tensor:
    """Xlearn (thuml/Xlearn) `JAN`: the U-statistic of the product over layers of `xlearn_kernel`.

    One [n, d_l] tensor per layer. By default a feature layer with five kernels around the mean
    distance, and a softmax layer with one kernel of bandwidth 1.68. n = m as in `xlearn_dan`.
    """
    kernel = _xlearn_joint_kernel(sources, targets, kernel_muls, kernel_nums, fix_sigmas)
    require_equal_sizes(kernel, len(sources[0]))
    return u_statistic(kernel, len(sources[0]))


def xlearn_jan_linear(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernel_muls: Sequence[float] = (2.0, 2.0),
    kernel_nums: Sequence[int] = (5, 1),
    fix_sigmas: Sequence[float | None] = (None, 1.68),
) -> Tensor:
    """Xlearn (thuml/Xlearn) `JAN_Linear`: the kernel of `xlearn_jan` over the circular pairs."""
    kernel = _xlearn_joint_kernel(sources, targets, kernel_muls, kernel_nums, fix_sigmas)
    return circular_pairs(kernel, len(sources[0]))


def deepda_mmd(source: Tensor, target: Tensor, kernel_mul: float = 2.0, kernel_num: int = 5) -> Tensor:
    """DeepDA (jindongwang/transferlearning) `MMDLoss(kernel_type="rbf")`: V of `xlearn_kernel`.

    source [n, d], target [m, d]. DeepDA accepts a `fix_sigma` and ignores it, so there is none
    here.
    """
    return v_statistic(xlearn_kernel(source, target, kernel_mul, kernel_num), len(source))


# pytorch-adapt ---------------------------------------------------------------------------------


def pytorch_adapt_mmd(
    sources: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    kernel_scales: Sequence[float] = (1.0,),
    *,
    mmd_type: str = "linear",
    bandwidth: float | None = None,
) -> Tensor:
    """pytorch-adapt (KevinMusgrave/pytorch-adapt) `MMDLoss`.

    One tensor per domain, or one per layer: then the kernel is the product over layers. Per layer
    the mean over scales of exp(-scale * D / bandwidth), the bandwidth being the lower median of the
    layer's source-source distances or the one number given for all layers. "quadratic": the
    U-statistic, n and m may differ; "linear" (default): the disjoint pairs, n = m.
    """
    if isinstance(sources, Tensor):
        sources, targets = [sources], [targets]
    joint = math.prod(
        _pytorch_adapt_kernel(s, t, kernel_scales, bandwidth) for s, t in zip(sources, targets, strict=True)
    )
    estimators = {"quadratic": u_statistic, "linear": disjoint_pairs}
    return estimators[mmd_type](joint, len(sources[0]))


def _pytorch_adapt_kernel(
    source: Tensor, target: Tensor, kernel_scales: Sequence[float], bandwidth: float | None
) -> Tensor:
    distances = pooled_squared_distances(source, target)
    width = lower_median_of_source(source) if bandwidth is None else bandwidth
    return sum(torch.exp(-scale * distances / width) for scale in kernel_scales) / len(kernel_scales)


def pytorch_adapt_kernel_scales(
    low: float = -8, high: float = 8, num_kernels: int = 33, base: float = 2.0
) -> tuple[float, ...]:
    """pytorch-adapt `get_kernel_scales`: powers of base, exponents evenly spaced low to high."""
    step = (high - low) / (num_kernels - 1)
    return tuple(base ** (low + step * i) for i in range(num_kernels))


# Fixed bandwidths: geomloss, DomainBed, CMMD ---------------------------------------------------


def geomloss_gaussian(
    source: Tensor,
    target: Tensor,
    blur: float = 0.05,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """geomloss (jeanfeydy/geomloss) `SamplesLoss("gaussian", blur)`.

    source [n, d], target [m, d]; weights [n] and [m], 1/n and 1/m by default, taken as they are.
    (a' K_ss a + b' K_tt b) / 2 - a' K_st b with K = exp(-D / (2 blur^2)): half of V.
    """
    n, m = len(source), len(target)
    a = source.new_full((n,), 1 / n) if source_weights is None else source_weights
    b = target.new_full((m,), 1 / m) if target_weights is None else target_weights
    distances = pooled_squared_distances(source, target)
    return _weighted_v(torch.exp(-distances / (2 * blur * blur)), a, b) / 2


DOMAINBED_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def domainbed_mmd(source: Tensor, target: Tensor, gammas: Sequence[float] = DOMAINBED_GAMMAS) -> Tensor:
    """DomainBed (facebookresearch/DomainBed) `AbstractMMD.mmd`, gaussian kernel, for two domains.

    source [n, d], target [m, d]. V of sum_gamma exp(-gamma * D): no bandwidth is taken from the
    data.

    DomainBed clamps its D, computed from inner products, at 1e-30, also on the diagonal, whose
    rounding the large gammas amplify (about 1e-11 in float64, 1e-3 in float32).
    """
    distances = pooled_squared_distances(source, target)
    return v_statistic(sum(torch.exp(-gamma * distances) for gamma in gammas), len(source))


def cmmd(source: Tensor, target: Tensor) -> Tensor:
    """CMMD (sayakpaul/cmmd-pytorch, after google-research) `mmd`.

    source [n, d], target [m, d]. 1000 V of exp(-D / (2 sigma^2)) with sigma = 10. The project takes
    arrays and gives no gradient.
    """
    distances = pooled_squared_distances(source, target)
    return 1000 * v_statistic(torch.exp(-distances / (2 * 10.0**2)), len(source))


# Weights of pairs: classes, groups, samples ----------------------------------------------------


def dsan_lmmd(
    source: Tensor,
    target: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | None = None,
) -> Tensor:
    """DSAN (easezyc/deep-transfer-learning) `LMMD_loss.get_loss`, and DeepDA's `LMMDLoss` without
    the factor by which its loss grows: the mean over classes of V of `xlearn_kernel`, in which the
    source's rows of a class weigh the same and the target's weigh as much as they are expected to
    be of it.

    source, target [n, d], labels [n] of the source, probabilities [n, classes] of the target. The
    mean is over classes that are both a label and some target row's most probable class.

    Both projects need equal batches, keep weights and result in float32 and return the constant 0
    if any kernel value is NaN. DeepDA ignores `fix_sigma`.
    """
    kernel = xlearn_kernel(source, target, kernel_mul, kernel_num, fix_sigma)
    present = sorted(set(labels.tolist()) & set(probabilities.argmax(dim=1).tolist()))
    total = 0 * kernel.sum()
    for c in present:
        members = (labels == c).to(source.dtype)
        expected = probabilities[:, c]
        total = total + _weighted_v(kernel, members / members.sum(), expected / expected.sum()) / len(present)
    return total


def _weighted_v(kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a' K_ss a + b' K_tt b - 2 a' K_st b."""
    ss, tt, st = split(kernel, len(a))
    return a @ ss @ a + b @ tt @ b - 2 * a @ st @ b


def domainbed_penalty(domains: Sequence[Tensor], gammas: Sequence[float] = DOMAINBED_GAMMAS) -> Tensor:
    """DomainBed (facebookresearch/DomainBed) `MMD.update`: the mean of `domainbed_mmd` over all
    pairs of domains, one [n_g, d] tensor each, which the algorithm weights by `mmd_gamma`.
    """
    pairs = list(combinations(domains, 2))
    return sum(domainbed_mmd(x, y, gammas) for x, y in pairs) / len(pairs)


TRVAE_ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


def _trvae_v(source: Tensor, target: Tensor) -> Tensor:
    """V of sum_alpha exp(-D / (2 alpha))."""
    distances = pooled_squared_distances(source, target)
    return v_statistic(sum(torch.exp(-distances / (2 * alpha)) for alpha in TRVAE_ALPHAS), len(source))


def scarches_trvae_mmd(z: Tensor, conditions: Tensor, n_conditions: int, boundary: int | None = None) -> Tensor:
    """scArches (theislab/scarches) `trvae.losses.mmd` with beta = 1: the sum over pairs of
    conditions of V, 19 Gaussians each; with a `boundary` over pairs of a condition below it and
    one from it on.

    z [N, d], conditions [N]. Without a boundary conditions of no row are left out, with one those
    of fewer than two. scArches takes float32 only.
    """
    groups = [z[conditions == c] for c in range(n_conditions)]
    least = 1 if boundary is None else 2
    total = 0 * z.sum()
    for i, j in combinations(range(n_conditions), 2):
        if min(len(groups[i]), len(groups[j])) >= least and (boundary is None or i < boundary <= j):
            total = total + _trvae_v(groups[i], groups[j])
    return total


def trvae_mmd(z: Tensor, conditions: Tensor, n_conditions: int) -> Tensor:
    """trVAE (theislab/trVAE, Keras) `mmd` with beta = 1: its loops over i and j < i compare
    condition j with j + 1, so neighbours alone are compared, and j and j + 1 as often as there are
    conditions above j. The 19 Gaussians are averaged.
    """
    groups = [z[conditions == c] for c in range(n_conditions)]
    pairs = [(j, j + 1) for i in range(n_conditions) for j in range(i)]
    return sum(_trvae_v(groups[i], groups[j]) for i, j in pairs) / len(TRVAE_ALPHAS)


def mindiff_mmd(membership: Tensor, predictions: Tensor, sample_weight: Tensor, kernel_length: float = 0.1) -> Tensor:
    """MinDiff (tensorflow/model-remediation) `MMDLoss(GaussianKernel(kernel_length))`.

    membership [N] of zeros and ones, predictions [N, d], sample_weight [N]. The weighted mean of
    exp(-D / kernel_length^2) over pairs of members, plus that over pairs of others, less twice
    that over pairs of both; each has the weights w_i w_j over their sum.

    MinDiff computes in float32.
    """
    kernel = torch.exp(-squared_distances(predictions, predictions) / kernel_length**2)
    weights = torch.outer(sample_weight, sample_weight)

    def mean(rows: Tensor, columns: Tensor) -> Tensor:
        of_pairs = weights * torch.outer(rows, columns)
        return (of_pairs * kernel).sum() / of_pairs.sum()

    member, other = ((membership == side).to(predictions.dtype) for side in (1, 0))
    return mean(member, member) - 2 * mean(member, other) + mean(other, other)


# A published value only ------------------------------------------------------------------------


def ignite_mmd(source: Tensor, target: Tensor, var: float = 1.0) -> Tensor:
    """pytorch-ignite `MaximumMeanDiscrepancy(var)` of one batch: sqrt(max(U, 0)), one kernel
    exp(-D / (2 var)). source, target [n, d]; the project gives no gradient.
    """
    kernel = torch.exp(-pooled_squared_distances(source, target) / (2 * var))
    return u_statistic(kernel, len(source)).clamp(min=0).sqrt()
