"""fastmmd against what other public MMD and JMMD losses compute, in float64, values and gradients.

`MIGRATION` is also the answer to "how do I get the loss I used before" (docs/migration.md): per call of another
project the kernels and the estimator that make fastmmd return

    scale * fastmmd.mmd(source, target, kernel, estimator=...) + constant(n)

or, with several layers, the same around `fastmmd.jmmd`. The formulas are in formulas.py; the last
part checks those against the projects themselves, where they are installed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian

from . import formulas as f

Layers = Sequence[Tensor]

# The migration table ---------------------------------------------------------------------------


class Row(NamedTuple):
    """One call of another project and the fastmmd call that equals it."""

    peer: str
    formula: Callable[[Layers, Layers], Tensor]
    kernels: tuple[Gaussian, ...] | Callable[[Layers], tuple[Gaussian, ...]]  # one Gaussian a layer
    estimator: str
    scale: float = 1.0
    constant: Callable[[int], float] = lambda n: 0.0  # of the number of source rows
    equal_sizes: bool = False  # the other project needs n = m
    layers: int = 1


def one_layer(loss: Callable[..., Tensor], *args: object, **kwargs: object) -> Callable:
    return lambda sources, targets: loss(sources[0], targets[0], *args, **kwargs)


def layerwise(loss: Callable[..., Tensor], *args: object, **kwargs: object) -> Callable:
    return lambda sources, targets: loss(sources, targets, *args, **kwargs)


# tllib: exp(-D / (2 alpha M)), M the mean of D with the diagonal counted, so each multiplier is
# twice an alpha; a fixed sigma is a bandwidth of 2 sigma^2. Its losses add a constant 2 / (n - 1).
DAN_ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)
TLLIB_DAN = [f.TllibGaussianKernel(alpha) for alpha in DAN_ALPHAS]
TLLIB_FIXED = [f.TllibGaussianKernel(sigma=0.92)]


def tllib_constant(n: int) -> float:
    return 2 / (n - 1)


TLLIB = [
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy([GaussianKernel(alpha=a) for a in ALPHAS])",
        formula=one_layer(f.tllib_mk_mmd, TLLIB_DAN),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy(..., linear=True)",
        formula=one_layer(f.tllib_mk_mmd, TLLIB_DAN, linear=True),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)),),
        estimator="circular",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib MultipleKernelMaximumMeanDiscrepancy([GaussianKernel(sigma=1.5, "
        "track_running_stats=False), GaussianKernel(sigma=3, track_running_stats=False)])",
        formula=one_layer(f.tllib_mk_mmd, [f.TllibGaussianKernel(sigma=1.5), f.TllibGaussianKernel(sigma=3.0)]),
        kernels=(Gaussian(1.0, (2 * 1.5**2, 2 * 3.0**2)),),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
    ),
    Row(
        peer="tllib JointMultipleKernelMaximumMeanDiscrepancy(([GaussianKernel(alpha=a) for a in "
        "ALPHAS], [GaussianKernel(sigma=0.92, track_running_stats=False)]), linear=False)",
        formula=layerwise(f.tllib_jmmd, (TLLIB_DAN, TLLIB_FIXED), linear=False),
        kernels=(Gaussian("mean_all", (0.25, 0.5, 1, 2, 4)), Gaussian(2 * 0.92**2, (1,))),
        estimator="unbiased",
        constant=tllib_constant,
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="tllib JointMultipleKernelMaximumMeanDiscrepancy(...), linear by default",
        formula=layerwise(f.tllib_jmmd, (TLLIB_DAN, TLLIB_FIXED)),
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
        formula=one_layer(f.xlearn_dan),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN(source, target, kernel_mul=3.0, kernel_num=4)",
        formula=one_layer(f.xlearn_dan, kernel_mul=3.0, kernel_num=4),
        kernels=(Gaussian("mean", (1 / 9, 1 / 3, 1, 3)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN(source, target, fix_sigma=10.0)",
        formula=one_layer(f.xlearn_dan, fix_sigma=10.0),
        kernels=(Gaussian(10.0, (0.25, 0.5, 1, 2, 4)),),
        estimator="unbiased",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn DAN_Linear(source, target)",
        formula=one_layer(f.xlearn_dan_linear),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="circular",
        equal_sizes=True,
    ),
    Row(
        peer="Xlearn JAN([features, probabilities], ...)",
        formula=layerwise(f.xlearn_jan),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,))),
        estimator="unbiased",
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="Xlearn JAN of three layers, kernel_muls=[2, 2, 2], kernel_nums=[5, 3, 1], "
        "fix_sigma_list=[None, None, 1.68]",
        formula=layerwise(f.xlearn_jan, (2.0, 2.0, 2.0), (5, 3, 1), (None, None, 1.68)),
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
        formula=layerwise(f.xlearn_jan_linear),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,))),
        estimator="circular",
        equal_sizes=True,
        layers=2,
    ),
    Row(
        peer="DeepDA MMDLoss()(source, target)",
        formula=one_layer(f.deepda_mmd),
        kernels=(Gaussian("mean", (0.25, 0.5, 1, 2, 4)),),
        estimator="biased",
    ),
]

# pytorch-adapt: exp(-scale * D / bandwidth), averaged over the scales: multipliers 1 / scale,
# weights 1 / Q. Its default bandwidth, the lower median of the source-source distances, is no rule
# of fastmmd: take it from the batch and hand it over.
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
ALL_SCALES = f.pytorch_adapt_kernel_scales()


def pytorch_adapt_kernels(sources: Layers, scales: Sequence[float]) -> tuple[Gaussian, ...]:
    multipliers = tuple(1 / scale for scale in scales)
    weights = (1 / len(scales),) * len(scales)
    return tuple(Gaussian(f.lower_median_of_source(s), multipliers, weights) for s in sources)


PYTORCH_ADAPT = [
    Row(
        peer='pytorch-adapt MMDLoss(mmd_type="quadratic")',
        formula=layerwise(f.pytorch_adapt_mmd, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, (1.0,)),
        estimator="unbiased",
    ),
    Row(
        peer='pytorch-adapt MMDLoss(kernel_scales=get_kernel_scales(), mmd_type="quadratic")',
        formula=layerwise(f.pytorch_adapt_mmd, ALL_SCALES, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, ALL_SCALES),
        estimator="unbiased",
    ),
    Row(
        peer='pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5), mmd_type="quadratic", bandwidth=7.0)',
        formula=layerwise(f.pytorch_adapt_mmd, SCALES, mmd_type="quadratic", bandwidth=7.0),
        kernels=(Gaussian(7.0, (4, 2, 1, 0.5, 0.25), (0.2, 0.2, 0.2, 0.2, 0.2)),),
        estimator="unbiased",
    ),
    Row(
        peer="pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5)), linear by default",
        formula=layerwise(f.pytorch_adapt_mmd, SCALES),
        kernels=lambda sources: pytorch_adapt_kernels(sources, SCALES),
        estimator="linear",
        equal_sizes=True,
    ),
    Row(
        peer='pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5), mmd_type="quadratic") on lists',
        formula=layerwise(f.pytorch_adapt_mmd, SCALES, mmd_type="quadratic"),
        kernels=lambda sources: pytorch_adapt_kernels(sources, SCALES),
        estimator="unbiased",
        layers=2,
    ),
    Row(
        peer="pytorch-adapt MMDLoss(get_kernel_scales(-2, 2, 5)) on lists, linear by default",
        formula=layerwise(f.pytorch_adapt_mmd, SCALES),
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
        formula=one_layer(f.geomloss_gaussian, blur=2.0),
        kernels=(Gaussian(2 * 2.0**2, (1,)),),
        estimator="biased",
        scale=0.5,
    ),
    Row(
        peer='geomloss SamplesLoss("gaussian"), blur 0.05 by default',
        formula=one_layer(f.geomloss_gaussian),
        kernels=(Gaussian(2 * 0.05**2, (1,)),),
        estimator="biased",
        scale=0.5,
    ),
    Row(
        peer="DomainBed AbstractMMD.mmd, gaussian",
        formula=one_layer(f.domainbed_mmd),
        kernels=(Gaussian(1.0, (1000, 100, 10, 1, 0.1, 0.01, 0.001)),),
        estimator="biased",
    ),
    Row(
        peer="CMMD mmd(x, y)",
        formula=one_layer(f.cmmd),
        kernels=(Gaussian(2 * 10.0**2, (1,)),),
        estimator="biased",
        scale=1000.0,
    ),
]

MIGRATION = TLLIB + XLEARN + PYTORCH_ADAPT + FIXED

# Data and comparison ---------------------------------------------------------------------------

TOLERANCE = 1e-11

EQUAL_SIZES = [(3, 3), (8, 8), (31, 31)]
UNEQUAL_SIZES = [(7, 12), (33, 20)]
WIDTHS = [1, 3, 17, 64]


def batch(n: int, m: int, d: int, layers: int = 1, *, offset: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """Features of width d around the offset, then softmax layers; another seed for every shape."""
    generator = torch.Generator().manual_seed(10_000 * n + 100 * m + d)

    def normal(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    source, target = [normal(n, d) + offset], [1.3 * normal(m, d) + offset + 0.4]
    for width in (5, 8)[: layers - 1]:
        source.append(normal(n, width).softmax(dim=1))
        target.append((2 * normal(m, width)).softmax(dim=1))
    return source, target


def value_and_gradients(
    loss: Callable[[Layers, Layers], Tensor], sources: Layers, targets: Layers
) -> tuple[Tensor, tuple[Tensor, ...]]:
    sources = [s.detach().clone().requires_grad_() for s in sources]
    targets = [t.detach().clone().requires_grad_() for t in targets]
    value = loss(sources, targets)
    return value.detach(), torch.autograd.grad(value, sources + targets)


def assert_agree(
    actual: Callable[[Layers, Layers], Tensor],
    expected: Callable[[Layers, Layers], Tensor],
    sources: Layers,
    targets: Layers,
    tolerance: float = TOLERANCE,
    scale: float = 1.0,
) -> None:
    """Equal values, and gradients equal relative to their own largest entry."""
    value, gradients = value_and_gradients(actual, sources, targets)
    want, want_gradients = value_and_gradients(expected, sources, targets)
    assert value.dtype == want.dtype == torch.float64
    assert value.shape == want.shape == ()
    torch.testing.assert_close(value, want, rtol=tolerance, atol=tolerance * scale)
    for gradient, want_gradient in zip(gradients, want_gradients, strict=True):
        size = want_gradient.abs().max().item() + 1e-5 * scale
        torch.testing.assert_close(gradient, want_gradient, rtol=tolerance, atol=tolerance * size)


def fastmmd_call(row: Row, backend: str) -> Callable[[Layers, Layers], Tensor]:
    """The right-hand side of the table: scale * discrepancy + constant(n)."""

    def loss(sources: Layers, targets: Layers) -> Tensor:
        kernels = row.kernels(sources) if callable(row.kernels) else row.kernels
        options = {"estimator": row.estimator, "backend": backend}
        if row.layers == 1:
            estimate = fastmmd.mmd(sources[0], targets[0], kernels[0], **options)
        else:
            estimate = fastmmd.jmmd(sources, targets, kernels, **options)
        return row.scale * estimate + row.constant(len(sources[0]))

    return loss


@pytest.fixture(params=["reference", "torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    reason = fastmmd.build_info()["backends"][request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param} can't run here: {reason}")
    return request.param


# fastmmd against the formulas ------------------------------------------------------------------


def cases(sizes_equal_only: bool) -> list[tuple[int, int, int]]:
    sizes = EQUAL_SIZES if sizes_equal_only else EQUAL_SIZES + UNEQUAL_SIZES
    return [(n, m, d) for n, m in sizes for d in WIDTHS]


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_migration(row: Row, backend: str) -> None:
    for n, m, d in cases(row.equal_sizes):
        sources, targets = batch(n, m, d, row.layers)
        assert_agree(fastmmd_call(row, backend), row.formula, sources, targets, scale=row.scale)


DOCUMENTED = dict(
    re.findall(
        r"^\| `(.+)` \| `(.+)` \|$", (Path(__file__).parents[2] / "docs" / "migration.md").read_text(), re.MULTILINE
    )
)


def test_the_documented_calls_are_these() -> None:
    assert set(DOCUMENTED) == {row.peer for row in MIGRATION}


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_a_documented_call_gives_the_peers_value(row: Row) -> None:
    for n, m, d in cases(row.equal_sizes):
        sources, targets = batch(n, m, d, row.layers)
        medians = [f.lower_median_of_source(source) for source in sources]
        names = {"x": sources[0], "y": targets[0], "xs": sources, "ys": targets, "b": medians[0], "bs": medians, "n": n}
        functions = {"mmd": fastmmd.mmd, "jmmd": fastmmd.jmmd, "Gaussian": Gaussian}
        found = eval(DOCUMENTED[row.peer], functions | names)
        torch.testing.assert_close(found, row.formula(sources, targets), rtol=TOLERANCE, atol=TOLERANCE * row.scale)


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_migration_far_from_the_origin(row: Row, backend: str) -> None:
    """Features of mean 100: none of the losses depends on a common shift."""
    sources, targets = batch(8, 8, 17, row.layers, offset=100.0)
    assert_agree(fastmmd_call(row, backend), row.formula, sources, targets, scale=row.scale)


@pytest.mark.parametrize("estimator", ["unbiased", "circular"])
def test_dan_and_jan_in_one_pass(estimator: str, backend: str) -> None:
    """0.2 JAN + 0.3 DAN of the features: elsewhere two losses, here one pass."""
    jan, dan = {
        "unbiased": (f.xlearn_jan, f.xlearn_dan),
        "circular": (f.xlearn_jan_linear, f.xlearn_dan_linear),
    }[estimator]
    kernels = (Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,)))

    def one_pass(sources: Layers, targets: Layers) -> fastmmd.Discrepancy:
        return fastmmd.discrepancy(
            sources,
            targets,
            kernels,
            joint=0.2,
            marginal=(0.3, 0.0),
            estimator=estimator,
            backend=backend,
        )

    for n, m, d in cases(sizes_equal_only=True):
        sources, targets = batch(n, m, d, layers=2)
        assert_agree(
            lambda s, t: one_pass(s, t).loss,
            lambda s, t: 0.2 * jan(s, t) + 0.3 * dan(s[0], t[0]),
            sources,
            targets,
        )
        parts = one_pass(sources, targets)
        assert parts.joint.item() == pytest.approx(jan(sources, targets).item(), rel=TOLERANCE, abs=TOLERANCE)
        assert parts.marginals[0].item() == pytest.approx(
            dan(sources[0], targets[0]).item(), rel=TOLERANCE, abs=TOLERANCE
        )
        distances = f.pooled_squared_distances(sources[0], targets[0])
        assert parts.bandwidths.tolist() == pytest.approx([f.mean_off_diagonal(distances).item(), 1.68], rel=TOLERANCE)


# Identities between the losses -----------------------------------------------------------------


def assert_same(a: Callable, b: Callable, sources: Layers, targets: Layers) -> None:
    assert_agree(a, b, sources, targets, tolerance=1e-12)


@pytest.mark.parametrize("n", [3, 8, 31])
def test_tllib_is_dan_with_rescaled_alphas_plus_a_constant(n: int) -> None:
    """tllib(alpha N / (N - 1)) = DAN + 2 / (n - 1), each alpha half a multiplier of DAN's."""
    total = 2 * n
    rescaled = [f.TllibGaussianKernel(a * total / (total - 1)) for a in DAN_ALPHAS]
    sources, targets = batch(n, n, 17)
    for linear, dan in ((False, f.xlearn_dan), (True, f.xlearn_dan_linear)):
        assert_same(
            one_layer(f.tllib_mk_mmd, rescaled, linear=linear),
            lambda s, t, dan=dan: dan(s[0], t[0]) + 2 / (n - 1),
            sources,
            targets,
        )


@pytest.mark.parametrize("n", [3, 8, 31])
def test_mean_all_is_mean_with_rescaled_multipliers(n: int, backend: str) -> None:
    total = 2 * n
    rescaled = tuple(b * total / (total - 1) for b in (0.25, 0.5, 1, 2, 4))
    sources, targets = batch(n, n, 17)
    assert_agree(
        lambda s, t: fastmmd.mmd(s[0], t[0], Gaussian("mean_all", rescaled), backend=backend),
        lambda s, t: fastmmd.mmd(s[0], t[0], Gaussian("mean"), backend=backend),
        sources,
        targets,
    )


@pytest.mark.parametrize(("n", "m"), [(8, 8), (7, 12), (33, 20)])
def test_fixed_bandwidth_losses_are_multiples_of_v(n: int, m: int) -> None:
    """geomloss = V / 2; CMMD = 2000 geomloss(blur=10); DeepDA = V of the Xlearn kernel."""
    sources, targets = batch(n, m, 17)
    cmmd_by_geomloss = one_layer(f.geomloss_gaussian, blur=10.0)
    assert_same(one_layer(f.cmmd), lambda s, t: 2000 * cmmd_by_geomloss(s, t), sources, targets)
    assert_same(
        one_layer(f.domainbed_mmd, gammas=(1 / 18,)),
        lambda s, t: 2 * f.geomloss_gaussian(s[0], t[0], blur=3.0),
        sources,
        targets,
    )
    assert_same(
        one_layer(f.deepda_mmd),
        lambda s, t: f.v_statistic(f.xlearn_kernel(s[0], t[0]), n),
        sources,
        targets,
    )


def test_v_is_u_plus_the_diagonal() -> None:
    """n = m: V = U + 2 kappa / n - (S_ss + S_tt) / (n^2 (n - 1)), kappa = 5 on the diagonal."""
    n = 31
    (source,), (target,) = batch(n, n, 17)
    kernel = f.xlearn_kernel(source, target)
    ss, tt, _ = f.split(kernel, n)
    within = f.sum_off_diagonal(ss) + f.sum_off_diagonal(tt)
    expected = f.u_statistic(kernel, n) + 2 * 5 / n - within / (n * n * (n - 1))
    assert f.deepda_mmd(source, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_identical_batches(backend: str) -> None:
    """V of a batch with itself is 0 without a gradient; tllib's and Xlearn's loss is negative."""
    (source,), _ = batch(31, 31, 17)
    assert f.xlearn_dan(source, source).item() < 0
    assert f.tllib_mk_mmd(source, source, TLLIB_DAN).item() < 0
    value, gradients = value_and_gradients(
        lambda s, t: fastmmd.mmd(s[0], t[0], Gaussian("mean"), backend=backend), [source], [source]
    )
    assert 0 <= value.item() <= 1e-14
    assert max(gradient.abs().max().item() for gradient in gradients) <= 1e-14


# Published numbers -----------------------------------------------------------------------------

# The example of the transferlearning repository's MMD script.
SCRIPT_A = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
SCRIPT_B = torch.tensor([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]], dtype=torch.float64)
SCRIPT_RBF = 0.5822068619587334

# The test cases of pytorch-adapt: one feature, one kernel, median 1.
ADAPT_QUADRATIC = (4 * math.exp(-1) + 2 * math.exp(-4)) / 3 - (2 / 9) * (
    2 + 4 * math.exp(-1) + 2 * math.exp(-4) + math.exp(-9)
)
ADAPT_LINEAR = 2 * math.exp(-1) - math.exp(-4) - 1

# The example in the documentation of pytorch-ignite's MaximumMeanDiscrepancy.
IGNITE_X = [
    [-0.80324818, -0.95768364, -0.03807209],
    [-0.11059691, -0.38230813, -0.4111988],
    [-0.8864329, -0.02890403, -0.60119252],
    [-0.68732452, -0.12854739, -0.72095073],
    [-0.62604613, -0.52368328, -0.24112842],
]
IGNITE_Y = [
    [0.0686768, 0.80502737, 0.53321717],
    [0.83849465, 0.59099726, 0.76385441],
    [0.68688272, 0.56833803, 0.98100778],
    [0.55267761, 0.13084654, 0.45382906],
    [0.0754253, 0.70317304, 0.4756805],
]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_transferlearning_script_by_formula() -> None:
    pooled = torch.cat([SCRIPT_A, SCRIPT_B])
    inner = pooled @ pooled.T
    distances = f.pooled_squared_distances(SCRIPT_A, SCRIPT_B)
    for kernel, published in (
        (inner, 6.0),
        (torch.exp(-distances), SCRIPT_RBF),
        (inner.square(), 2436.5),
    ):
        assert f.v_statistic(kernel, 3).item() == pytest.approx(published, rel=1e-13)
    assert f.domainbed_mmd(SCRIPT_A, SCRIPT_B, gammas=(1.0,)).item() == pytest.approx(SCRIPT_RBF, rel=1e-13)


def test_transferlearning_script_by_fastmmd(backend: str) -> None:
    value = fastmmd.mmd(SCRIPT_A, SCRIPT_B, Gaussian(1.0, (1,)), backend=backend)
    assert value.item() == pytest.approx(SCRIPT_RBF, rel=TOLERANCE)


def test_pytorch_adapt_cases_by_formula() -> None:
    quadratic = f.pytorch_adapt_mmd(column(1, 2, 3), column(2, 3, 4), mmd_type="quadratic")
    linear = f.pytorch_adapt_mmd(column(1, 2, 3, 4), column(2, 3, 4, 5))
    assert quadratic.item() == pytest.approx(ADAPT_QUADRATIC, rel=1e-13)
    assert linear.item() == pytest.approx(ADAPT_LINEAR, rel=1e-13)
    assert round(ADAPT_QUADRATIC, 7) == -0.2768998
    assert round(ADAPT_LINEAR, 7) == -0.2825568


def test_pytorch_adapt_cases_by_fastmmd(backend: str) -> None:
    kernel = Gaussian(1.0, (1,))
    quadratic = fastmmd.mmd(column(1, 2, 3), column(2, 3, 4), kernel, estimator="unbiased", backend=backend)
    linear = fastmmd.mmd(column(1, 2, 3, 4), column(2, 3, 4, 5), kernel, estimator="linear", backend=backend)
    assert quadratic.item() == pytest.approx(ADAPT_QUADRATIC, rel=TOLERANCE)
    assert linear.item() == pytest.approx(ADAPT_LINEAR, rel=TOLERANCE)


def test_ignite_example(backend: str) -> None:
    """sqrt(max(U, 0)), exp(-D / (2 var)) with var 1: a bandwidth of 2."""
    x = torch.tensor(IGNITE_X, dtype=torch.float64)
    y = torch.tensor(IGNITE_Y, dtype=torch.float64)
    by_formula = f.ignite_mmd(x, y).item()
    squared = fastmmd.mmd(x, y, Gaussian(2.0, (1,)), estimator="unbiased", backend=backend)
    assert by_formula == pytest.approx(1.0726, abs=1e-4)
    assert squared.clamp(min=0).sqrt().item() == pytest.approx(by_formula, rel=TOLERANCE)


# The formulas against the projects themselves, where installed ---------------------------------


def import_peer(name: str) -> object:
    return pytest.importorskip(name, exc_type=ImportError, reason=f"{name} is not installed")


@pytest.mark.parametrize("bandwidth", [None, 7.0])
@pytest.mark.parametrize("num_kernels", [1, 5, 33])
@pytest.mark.parametrize("mmd_type", ["quadratic", "linear"])
@pytest.mark.parametrize("layers", [1, 2])
def test_formula_is_pytorch_adapt(layers: int, mmd_type: str, num_kernels: int, bandwidth: float | None) -> None:
    peer = import_peer("pytorch_adapt.layers")
    get_kernel_scales = import_peer("pytorch_adapt.layers.utils").get_kernel_scales
    scales, peer_scales = (1.0,), 1
    if num_kernels > 1:
        scales = f.pytorch_adapt_kernel_scales(num_kernels=num_kernels)
        peer_scales = get_kernel_scales(num_kernels=num_kernels)

    def project(sources: Layers, targets: Layers) -> Tensor:
        loss = peer.MMDLoss(kernel_scales=peer_scales, mmd_type=mmd_type, bandwidth=bandwidth)
        return loss(sources[0], targets[0]) if layers == 1 else loss(list(sources), list(targets))

    formula = layerwise(f.pytorch_adapt_mmd, scales, mmd_type=mmd_type, bandwidth=bandwidth)
    for n, m, d in cases(sizes_equal_only=mmd_type == "linear"):
        assert_agree(project, formula, *batch(n, m, d, layers), tolerance=1e-9)


@pytest.mark.parametrize("blur", [0.05, 2.0, 10.0])
def test_formula_is_geomloss(blur: float) -> None:
    geomloss = import_peer("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=blur, backend="tensorized")
    for n, m, d in cases(sizes_equal_only=False):
        sources, targets = batch(n, m, d)
        assert_agree(
            lambda s, t: loss(s[0], t[0]),
            one_layer(f.geomloss_gaussian, blur=blur),
            sources,
            targets,
            tolerance=1e-9,
        )
        a = torch.linspace(0.1, 1.0, n, dtype=torch.float64)
        b = torch.linspace(1.0, 0.2, m, dtype=torch.float64)
        assert_agree(
            lambda s, t, a=a, b=b: loss(a, s[0], b, t[0]),
            one_layer(f.geomloss_gaussian, blur=blur, source_weights=a, target_weights=b),
            sources,
            targets,
            tolerance=1e-9,
        )


@pytest.mark.parametrize("blur", [2.0, 10.0])
def test_fastmmd_is_geomloss(blur: float, backend: str) -> None:
    geomloss = import_peer("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=blur, backend="tensorized")
    kernel = Gaussian(2 * blur * blur, (1,))
    for n, m, d in cases(sizes_equal_only=False):
        assert_agree(
            lambda s, t: 0.5 * fastmmd.mmd(s[0], t[0], kernel, backend=backend),
            lambda s, t: loss(s[0], t[0]),
            *batch(n, m, d),
            tolerance=1e-9,
        )
