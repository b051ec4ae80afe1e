"""The migration table: calls of other projects, and the fastmmd call that equals each.

`MIGRATION` has, per call of another project, the kernels and the estimator that make fastmmd return

    scale * fastmmd.mmd(source, target, kernel, estimator=...) + constant(n)

or, with several layers, the same around `fastmmd.jmmd`. docs/migration.md has these calls for users.

`WEIGHTED` has calls in which pairs have weights of their own. Their fastmmd calls stand in docs/migration.md alone,
from where the tests take them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd import Gaussian
from tests.peers import formulas
from tests.peers.agreement import Layers, Loss, batch, layerwise, one_layer
from tests.peers.estimators import lower_median_of_source


class Row(NamedTuple):
    """One call of another project and the fastmmd call that equals it."""

    peer: str
    formula: Loss
    kernels: tuple[Gaussian, ...] | Callable[[Layers], tuple[Gaussian, ...]]  # one Gaussian per layer
    estimator: str
    scale: float = 1.0
    constant: Callable[[int], float] = lambda n: 0.0  # of the number of source rows
    equal_sizes: bool = False  # the other project needs n = m
    layers: int = 1


# tllib: exp(-D / (2 alpha M)), M the mean of D with the diagonal counted, so each multiplier is
# twice an alpha; a fixed sigma is a bandwidth of 2 sigma^2. Its losses add a constant 2 / (n - 1).
DAN_ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)
TLLIB_DAN = [formulas.TllibGaussianKernel(alpha) for alpha in DAN_ALPHAS]
TLLIB_FIXED = [formulas.TllibGaussianKernel(sigma=0.92)]


def tllib_constant(n: int) -> float:
    return 2 / (n - 1)


TLLIB = [
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy([GaussianKernel(alpha=a) for a in ALPHAS])",
        formula=one_layer(formulas.tllib_mk_mmd, TLLIB_DAN),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy(..., linear=True)",
        formula=one_layer(formulas.tllib_mk_mmd, TLLIB_DAN, linear=True),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)),),
        estimator="circular",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy([GaussianKernel(sigma=1.5, "
        "track_running_stats=False), GaussianKernel(sigma=3, track_running_stats=False)])",
        formula=one_layer(
            formulas.tllib_mk_mmd, [formulas.TllibGaussianKernel(sigma=1.5), formulas.TllibGaussianKernel(sigma=3.0)]
        ),
        kernels=(Gaussian(1.0, (2 * 1.5**2, 2 * 3.0**2)),),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib JointMultipleKernelMaximumMeanDiscrepancy(([GaussianKernel(alpha=a) for a in "
        "ALPHAS], [GaussianKernel(sigma=0.92, track_running_stats=False)]), linear=False)",
        formula=layerwise(formulas.tllib_jmmd, (TLLIB_DAN, TLLIB_FIXED), linear=False),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)), Gaussian(2 * 0.92**2, (1,))),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="tllib JointMultipleKernelMaximumMeanDiscrepancy(...), linear by default",
        formula=layerwise(formulas.tllib_jmmd, (TLLIB_DAN, TLLIB_FIXED)),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)), Gaussian(2 * 0.92**2, (1,))),
        estimator="circular",
        constant=tllib_constant,
        equal_sizes=True,
        layers=2,
    ),
]

# Xlearn and DeepDA: exp(-D / b), b = b0 * kernel_mul^(i - kernel_num // 2). The multipliers are
# those powers; b0 is "mean" or, as a number, fix_sigma.
XLEARN = [
    Row(
        peer="Xlearn DAN(source, target)",
        formula=one_layer(formulas.xlearn_dan),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN(source, target, kernel_mul=3.0, kernel_num=4)",
        formula=one_layer(formulas.xlearn_dan, kernel_mul=3.0, kernel_num=4),
        kernels=(Gaussian("mean", (1 / 9, 1 / 3, 1, 3)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN(source, target, fix_sigma=10.0)",
        formula=one_layer(formulas.xlearn_dan, fix_sigma=10.0),
        kernels=(Gaussian(10.0, (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN_Linear(source, target)",
        formula=one_layer(formulas.xlearn_dan_linear),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="circular",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn JAN([features, probabilities], ...)",
        formula=layerwise(formulas.xlearn_jan),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,))),
        estimator="unbiased",
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="Xlearn JAN of three layers, kernel_muls=[2, 2, 2], kernel_nums=[5, 3, 1], "
        "fix_sigma_list=[None, None, 1.68]",
        formula=layerwise(formulas.xlearn_jan, (2.0, 2.0, 2.0), (5, 3, 1), (None, None, 1.68)),
        kernels=(
            Gaussian("mean", (0.25, 0.5, 1, 2, 4)),
            Gaussian("mean", (0.5, 1, 2)),
            Gaussian(1.68, (1,)),
        ),
        estimator="unbiased",
        equal_sizes=True,
        layers=3,
    ),
    Row(
        peer="Xlearn JAN_Linear([features, probabilities], ...)",
        formula=layerwise(formulas.xlearn_jan_linear),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,))),
        estimator="circular",
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="DeepDA MMDLoss()(source, target)",
        formula=one_layer(formulas.deepda_mmd),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="biased",
    ),
]

# pytorch-adapt: exp(-scale * D / bandwidth), averaged over the scales: multipliers 1 / scale,
# weights 1 / Q. Its default bandwidth, the lower median of the source-source distances, is no rule
# of fastmmd: take it from the batch and hand it over.
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
ALL_SCALES = formulas.pytorch_adapt_kernel_scales()


def pytorch_adapt_kernels(sources: Layers, scales: Sequence[float]) -> tuple[Gaussian, ...]:
    multipliers = tuple(1 / scale for scale in scales)
    weights = (1 / len(scales),) * len(scales)
    return tuple(Gaussian(lower_median_of_source(s), multipliers, weights) for s in sources)


PYTORCH_ADAPT = [
    Row(
        peer='pytorch-adapt MMDLoss(mmd_type="quadratic")',
        formula=layerwise(formulas.pytorch_adapt_mmd, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, (1.0,)),
        estimator="unbiased",
    ),
    Row(
        peer='pytorch-adapt MMDLoss(kernel_scales=get_kernel_scales(), mmd_type="quadratic")',
        formula=layerwise(formulas.pytorch_adapt_mmd, ALL_SCALES, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, ALL_SCALES),
        estimator="unbiased",
    ),
    Row(
        peer='pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5), mmd_type="quadratic", bandwidth=7.0)',
        formula=layerwise(formulas.pytorch_adapt_mmd, SCALES, mmd_type="quadratic", bandwidth=7.0),
        kernels=(Gaussian(7.0, (4, 2, 1, 0.5, 0.25), (0.2, 0.2, 0.2, 0.2, 0.2)),),
        estimator="unbiased",
    ),
    Row(
        peer="pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5)), linear by default",
        formula=layerwise(formulas.pytorch_adapt_mmd, SCALES),
        kernels=lambda sources: pytorch_adapt_kernels(sources, SCALES),
        estimator="linear",
        equal_sizes=True,
    ),
    Row(
        peer='pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5), mmd_type="quadratic") on lists',
        formula=layerwise(formulas.pytorch_adapt_mmd, SCALES, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, SCALES),
        estimator="unbiased",
        layers=2,
    ),
    Row(
        peer="pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5)) on lists, linear by default",
        formula=layerwise(formulas.pytorch_adapt_mmd, SCALES),
        kernels=lambda sources: pytorch_adapt_kernels(sources, SCALES),
        estimator="linear",
        equal_sizes=True,
        layers=2,
    ),
]

# Fixed bandwidths: exp(-D / (2 sigma^2)) is a bandwidth of 2 sigma^2, exp(-gamma D) one of 1 /
# gamma.
FIXED = [
    Row(
        peer='geomloss SamplesLoss("gaussian", blur=2.0)',
        formula=one_layer(formulas.geomloss_gaussian, blur=2.0),
        kernels=(Gaussian(2 * 2.0**2, (1,)),),
        estimator="biased",
        scale=0.5,
    ),
    Row(
        peer='geomloss SamplesLoss("gaussian"), blur 0.05 by default',
        formula=one_layer(formulas.geomloss_gaussian),
        kernels=(Gaussian(2 * 0.05**2, (1,)),),
        estimator="biased",
        scale=0.5,
    ),
    Row(
        peer="DomainBed AbstractMMD.mmd, gaussian",
        formula=one_layer(formulas.domainbed_mmd),
        kernels=(Gaussian(1.0, (1000, 100, 10, 1, 0.1, 0.01, 0.001)),),
        estimator="biased",
    ),
    Row(
        peer="CMMD mmd(x, y)",
        formula=one_layer(formulas.cmmd),
        kernels=(Gaussian(2 * 10.0**2, (1,)),),
        estimator="biased",
        scale=1000.0,
    ),
]

MIGRATION = TLLIB + XLEARN + PYTORCH_ADAPT + FIXED

# Weights of pairs ------------------------------------------------------------------------------


class WeightedRow(NamedTuple):
    """One call of another project in which rows count more or less, have classes or fall into groups.

    formula: of the tensors of `weighted_batch` that `arguments` names.
    variables: those that gradients are compared in; "logits_x" and "logits_y" stand for weights that go on adding up
        to 1, their softmax.
    """

    peer: str
    formula: Callable[..., Tensor]
    arguments: tuple[str, ...]
    variables: tuple[str, ...]
    equal_sizes: bool = False  # the other project needs n = m

    def theirs(self, tensors: dict[str, Tensor]) -> Tensor:
        return self.formula(*[tensors[name] for name in self.arguments])


def weighted_batch(n: int, m: int, d: int, *, offset: float = 0.0) -> dict[str, Tensor]:
    """What the calls are made of, by name; docs/migration.md says what each is. Every group has two rows or more."""
    (x,), (y,) = batch(n, m, d, offset=offset)
    generator = torch.Generator().manual_seed(n + m + d)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    order = torch.randperm(n + m, generator=generator)
    return {
        "x": x,
        "y": y,
        "logits_x": normal(n),
        "logits_y": normal(m),
        "labels": torch.randint(5, (n,), generator=generator),
        "probabilities": (2 * normal(m, 5)).softmax(dim=1),
        "z": torch.cat([x, y]),
        "vx": normal(n).exp(),
        "vy": normal(m).exp(),
        "v": normal(n + m).exp(),
        "groups": (torch.arange(n + m) % 3)[order],
        "member": (torch.arange(n + m) < n)[order],
    }


def with_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, and the weights that follow from the logits."""
    return tensors | {"wx": tensors["logits_x"].softmax(dim=0), "wy": tensors["logits_y"].softmax(dim=0)}


def domains(z: Tensor, groups: Tensor) -> list[Tensor]:
    return [z[groups == g] for g in range(3)]


# exp(-D / (2 alpha)) at bandwidth 1.
TRVAE_MULTIPLIERS = [2 * alpha for alpha in formulas.TRVAE_ALPHAS]


def domainbed(z: Tensor, groups: Tensor) -> Tensor:
    return formulas.domainbed_penalty([z[groups == g] for g in range(3)])


WEIGHTED = [
    WeightedRow(
        peer='geomloss SamplesLoss("gaussian", blur=2.0)(wx, x, wy, y), weights that add up to 1',
        formula=lambda x, y, wx, wy: formulas.geomloss_gaussian(x, y, 2.0, wx, wy),
        arguments=("x", "y", "wx", "wy"),
        variables=("x", "y", "logits_x", "logits_y"),
    ),
    WeightedRow(
        peer='geomloss SamplesLoss("gaussian", blur=2.0)(vx, x, vy, y), weights of any sum',
        formula=lambda x, y, vx, vy: formulas.geomloss_gaussian(x, y, 2.0, vx, vy),
        arguments=("x", "y", "vx", "vy"),
        variables=("x", "y", "vx", "vy"),
    ),
    WeightedRow(
        peer="MinDiff MMDLoss(GaussianKernel(kernel_length=2.0))(member, z, sample_weight=v)",
        formula=partial(formulas.mindiff_mmd, kernel_length=2.0),
        arguments=("member", "z", "v"),
        variables=("z", "v"),
    ),
    WeightedRow(
        peer="DSAN LMMD_loss().get_loss(x, y, labels, probabilities)",
        formula=formulas.dsan_lmmd,
        arguments=("x", "y", "labels", "probabilities"),
        variables=("x", "y"),
        equal_sizes=True,
    ),
    WeightedRow(
        peer="DSAN LMMD_loss(kernel_mul=3.0, kernel_num=4, fix_sigma=10.0).get_loss(x, y, labels, probabilities)",
        formula=partial(formulas.dsan_lmmd, kernel_mul=3.0, kernel_num=4, fix_sigma=10.0),
        arguments=("x", "y", "labels", "probabilities"),
        variables=("x", "y"),
        equal_sizes=True,
    ),
    WeightedRow(
        peer="DeepDA LMMDLoss(num_class)(x, y, labels, probabilities), without its schedule",
        formula=formulas.dsan_lmmd,
        arguments=("x", "y", "labels", "probabilities"),
        variables=("x", "y"),
        equal_sizes=True,
    ),
    WeightedRow(
        peer="DomainBed MMD.update, its penalty over three domains",
        formula=domainbed,
        arguments=("z", "groups"),
        variables=("z",),
    ),
    WeightedRow(
        peer="scArches trvae.losses.mmd(z, groups, n_conditions=3, beta=1, boundary=None)",
        formula=partial(formulas.scarches_trvae_mmd, n_conditions=3),
        arguments=("z", "groups"),
        variables=("z",),
    ),
    WeightedRow(
        peer="scArches trvae.losses.mmd(z, groups, n_conditions=3, beta=1, boundary=1)",
        formula=partial(formulas.scarches_trvae_mmd, n_conditions=3, boundary=1),
        arguments=("z", "groups"),
        variables=("z",),
    ),
    WeightedRow(
        peer="trVAE mmd(n_conditions=3, beta=1)(groups, z)",
        formula=partial(formulas.trvae_mmd, n_conditions=3),
        arguments=("z", "groups"),
        variables=("z",),
    ),
]
