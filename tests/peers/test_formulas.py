"""The formulas are right: identities between them, and published numbers, which fastmmd gives too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian
from tests.peers import formulas
from tests.peers.agreement import TOLERANCE, Layers, assert_agree, batch, one_layer, value_and_gradients
from tests.peers.estimators import pooled_squared_distances, split, sum_off_diagonal, u_statistic, v_statistic
from tests.peers.migration import DAN_ALPHAS, TLLIB_DAN

# Identities between the losses -----------------------------------------------------------------


def assert_same(a: Callable, b: Callable, sources: Layers, targets: Layers) -> None:
    assert_agree(a, b, sources, targets, tolerance=1e-12)


@pytest.mark.parametrize("n", [3, 8, 31])
def test_tllib_is_dan_with_rescaled_alphas_plus_a_constant(n: int) -> None:
    """tllib(alpha N / (N - 1)) = DAN + 2 / (n - 1), each alpha half a multiplier of DAN's."""
    total = 2 * n
    rescaled = [formulas.TllibGaussianKernel(a * total / (total - 1)) for a in DAN_ALPHAS]
    sources, targets = batch(n, n, 17)
    for linear, dan in ((False, formulas.xlearn_dan), (True, formulas.xlearn_dan_linear)):
        assert_same(
            one_layer(formulas.tllib_mk_mmd, rescaled, linear=linear),
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
    cmmd_by_geomloss = one_layer(formulas.geomloss_gaussian, blur=10.0)
    assert_same(one_layer(formulas.cmmd), lambda s, t: 2000 * cmmd_by_geomloss(s, t), sources, targets)
    assert_same(
        one_layer(formulas.domainbed_mmd, gammas=(1 / 18,)),
        lambda s, t: 2 * formulas.geomloss_gaussian(s[0], t[0], blur=3.0),
        sources,
        targets,
    )
    assert_same(
        one_layer(formulas.deepda_mmd),
        lambda s, t: v_statistic(formulas.xlearn_kernel(s[0], t[0]), n),
        sources,
        targets,
    )


def test_v_is_u_plus_the_diagonal() -> None:
    """n = m: V = U + 2 kappa / n - (S_ss + S_tt) / (n^2 (n - 1)), kappa = 5 on the diagonal."""
    n = 31
    (source,), (target,) = batch(n, n, 17)
    kernel = formulas.xlearn_kernel(source, target)
    ss, tt, _ = split(kernel, n)
    within = sum_off_diagonal(ss) + sum_off_diagonal(tt)
    expected = u_statistic(kernel, n) + 2 * 5 / n - within / (n * n * (n - 1))
    assert formulas.deepda_mmd(source, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_identical_batches(backend: str) -> None:
    """V of a batch with itself is 0 without a gradient; tllib's and Xlearn's loss is negative."""
    (source,), _ = batch(31, 31, 17)
    assert formulas.xlearn_dan(source, source).item() < 0
    assert formulas.tllib_mk_mmd(source, source, TLLIB_DAN).item() < 0
    value, gradients = value_and_gradients(
        lambda s, t: fastmmd.mmd(s[0], t[0], Gaussian("mean"), backend=backend), [source], [source]
    )
    assert 0 <= value.item() <= 1e-14
    assert max(gradient.abs().max().item() for gradient in gradients) <= 1e-14


@pytest.mark.parametrize(("n", "m"), [(8, 8), (7, 12)])
def test_a_single_class_and_a_single_pair_of_groups_are_v(n: int, m: int) -> None:
    sources, targets = batch(n, m, 17)
    one_class = {"labels": torch.zeros(n, dtype=torch.long), "probabilities": torch.ones(m, 1, dtype=torch.float64)}
    assert_same(one_layer(formulas.dsan_lmmd, **one_class), one_layer(formulas.deepda_mmd), sources, targets)
    assert_same(
        lambda s, t: formulas.domainbed_penalty([s[0], t[0]]), one_layer(formulas.domainbed_mmd), sources, targets
    )
    side = torch.arange(n + m) >= n
    gammas = [1 / (2 * alpha) for alpha in formulas.TRVAE_ALPHAS]
    for trvae, number in ((formulas.scarches_trvae_mmd, 1), (formulas.trvae_mmd, 19)):
        assert_same(
            lambda s, t, trvae=trvae, number=number: number * trvae(torch.cat([s[0], t[0]]), side, 2),
            one_layer(formulas.domainbed_mmd, gammas=gammas),
            sources,
            targets,
        )


def test_equal_weights_are_no_weights_for_mindiff_and_a_factor_for_geomloss() -> None:
    """MinDiff normalises them; geomloss, half of V, is quadratic in them."""
    (source,), (target,) = batch(7, 12, 17)
    z, member = torch.cat([source, target]), (torch.arange(19) < 7).double()
    v = 2 * formulas.geomloss_gaussian(source, target, blur=2.0)
    equal = torch.full((19,), 3.0, dtype=torch.float64)
    assert formulas.mindiff_mmd(member, z, equal, kernel_length=8**0.5).item() == pytest.approx(v.item(), rel=1e-12)
    doubled = formulas.geomloss_gaussian(
        source, target, 2.0, torch.full((7,), 2 / 7, dtype=torch.float64), torch.full((12,), 1 / 6, dtype=torch.float64)
    )
    assert doubled.item() == pytest.approx(2 * v.item(), rel=1e-12)


def test_without_a_common_class_the_local_mmd_is_zero_with_zero_gradients() -> None:
    labels, probabilities = torch.zeros(8, dtype=torch.long), torch.eye(3, dtype=torch.float64)[[1] * 8]
    value, gradients = value_and_gradients(
        one_layer(formulas.dsan_lmmd, labels=labels, probabilities=probabilities), *batch(8, 8, 3)
    )
    assert value.item() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


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
    distances = pooled_squared_distances(SCRIPT_A, SCRIPT_B)
    for kernel, published in (
        (inner, 6.0),
        (torch.exp(-distances), SCRIPT_RBF),
        (inner.square(), 2436.5),
    ):
        assert v_statistic(kernel, 3).item() == pytest.approx(published, rel=1e-13)
    assert formulas.domainbed_mmd(SCRIPT_A, SCRIPT_B, gammas=(1.0,)).item() == pytest.approx(SCRIPT_RBF, rel=1e-13)


def test_transferlearning_script_by_fastmmd(backend: str) -> None:
    value = fastmmd.mmd(SCRIPT_A, SCRIPT_B, Gaussian(1.0, (1,)), backend=backend)
    assert value.item() == pytest.approx(SCRIPT_RBF, rel=TOLERANCE)


def test_pytorch_adapt_cases_by_formula() -> None:
    quadratic = formulas.pytorch_adapt_mmd(column(1, 2, 3), column(2, 3, 4), mmd_type="quadratic")
    linear = formulas.pytorch_adapt_mmd(column(1, 2, 3, 4), column(2, 3, 4, 5))
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
    by_formula = formulas.ignite_mmd(x, y).item()
    squared = fastmmd.mmd(x, y, Gaussian(2.0, (1,)), estimator="unbiased", backend=backend)
    assert by_formula == pytest.approx(1.0726, abs=1e-4)
    assert squared.clamp(min=0).sqrt().item() == pytest.approx(by_formula, rel=TOLERANCE)
