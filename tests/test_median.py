"""The median of pooled squared distances in the compiled CPU kernels, against all distances sorted in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd.backends import cpu

compiled = pytest.importorskip("fastmmd._C")
VARIANTS = compiled.cpu_variants()
every_variant = pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=VARIANTS)


def all_distances(source, target, dtype=torch.float64):
    """The squared distances of all pairs i < j, sorted; NaN last."""
    z = torch.cat([source, target]).to(dtype)
    return torch.cat([(z[i] - z[i + 1 :]).square().sum(1) for i in range(len(z) - 1)]).sort().values


def middle(distances):
    return distances[(len(distances) - 1) // 2]


def assert_exact(median, source, target):
    """No more than round-off of a sum away, which an order statistic takes over from the numbers that it orders."""
    expected = middle(all_distances(source, target)).item()
    assert median.shape == ()
    assert median.dtype == (torch.float64 if source.dtype == torch.float64 else torch.float32)
    assert median.item() == pytest.approx(expected, rel=20 * torch.finfo(median.dtype).eps, abs=0)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "m", "dim"), [(1, 1, 3), (1, 2, 1), (31, 2, 300), (33, 31, 17), (257, 255, 5), (256, 257, 2), (600, 500, 9)]
)
def test_against_all_distances(variant, dtype, n, m, dim):
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(k, dim, generator=generator).to(dtype) for k in (n, m))
    assert_exact(cpu.median_distance(source, target, cpu.Config(variant)), source, target)


@every_variant
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 80),
    m=st.sampled_from([1, 2, 31, 33, 257, 520]),
    dim=st.integers(1, 12),
    values=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_rank_among_ties(variant, n, m, dim, values, seed):
    """Integer features: distances are exact in floating point, and few; the rank must be right to one."""
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(0, values, (k, dim), generator=generator).float() for k in (n, m))
    assert (
        cpu.median_distance(source, target, cpu.Config(variant)).item() == middle(all_distances(source, target)).item()
    )


@every_variant
@pytest.mark.parametrize("n", [40, 520])
def test_every_rank(variant, n):
    """Rows on a line, so far apart that each pair has a distance of its own."""
    for count in range(n, n + 4):
        source = (torch.arange(count, dtype=torch.float64) ** 3 + torch.arange(count).sin()).unsqueeze(1)
        target = torch.full((1, 1), -5.0, dtype=torch.float64)
        median = cpu.median_distance(source, target, cpu.Config(variant))
        assert median.item() == middle(all_distances(source, target)).item()


@every_variant
@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("far", [1e5, 1e15, 1e30])
def test_far_rows_cost_no_digits(variant, n, far):
    source, target = torch.randn(n, 6), torch.randn(n, 6)
    source[0] = far
    assert_exact(cpu.median_distance(source, target, cpu.Config(variant)), source, target)
    source, target = source.clone(), target.clone()
    source[: n - 1] += far  # most pairs inside two clusters
    target[: n // 8] += far
    expected = middle(all_distances(source, target, torch.float32)).item()
    assert cpu.median_distance(source, target, cpu.Config(variant)).item() == pytest.approx(expected, rel=1e-5)


@every_variant
@pytest.mark.parametrize("n", [9, 300])
def test_equal_rows_and_constant_features(variant, n):
    row = 1e6 * torch.randn(1, 40)
    assert cpu.median_distance(row.expand(n, 40), row.expand(n + 1, 40), cpu.Config(variant)).item() == 0
    source, target = row.repeat(n, 1), row.repeat(n, 1)
    source[: n // 4] += 1
    assert cpu.median_distance(source, target, cpu.Config(variant)).item() == 0


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [9, 300])
def test_nan_and_infinity(variant, dtype, n):
    """As plain differences: an infinite row is far from all others, inf - inf is NaN, and any NaN is the result."""
    source, target = torch.randn(n, 5, dtype=dtype), torch.randn(n, 5, dtype=dtype)
    source[3, 2] = torch.inf
    assert_exact(cpu.median_distance(source, target, cpu.Config(variant)), source, target)
    for poison in (torch.inf, torch.nan, -torch.nan):
        target[-1, 2] = poison
        assert cpu.median_distance(source, target, cpu.Config(variant)).isnan()
        source[3, 2] = 0.0
    assert cpu.median_distance(source, torch.full_like(target, torch.inf)[:1], cpu.Config(variant)).isfinite()


@every_variant
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_extreme_sizes(variant, size):
    """As in the reference: what a float can't hold is infinity or 0."""
    source, target = torch.randn(30, 5, dtype=torch.float64), torch.randn(20, 5, dtype=torch.float64)
    assert_exact(cpu.median_distance(source * size, target * size, cpu.Config(variant)), source * size, target * size)
    median = cpu.median_distance((source * size).float(), (target * size).float(), cpu.Config(variant))
    assert median.item() == (torch.inf if size > 1 else 0)


@every_variant
def test_strided_rows(variant):
    wide = torch.randn(40, 30)
    for view in (wide[:, 3:20], wide[::3, :17], wide.T[:17].T, wide[:, 2:19:2], wide[:1].expand(9, 30), wide[:, :1]):
        target = torch.randn(11, view.shape[1])
        expected = cpu.median_distance(view.clone(), target, cpu.Config(variant))
        assert cpu.median_distance(view, target, cpu.Config(variant)) == expected
        assert cpu.median_distance(target, view, cpu.Config(variant)) == expected


@pytest.mark.parametrize("n", [40, 400])
def test_bits_do_not_depend_on_threads(n):
    source, target = torch.randn(n, 300), torch.randn(n, 300) + 1
    threads = torch.get_num_threads()
    try:
        medians = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            medians.append(cpu.median_distance(source, target))
    finally:
        torch.set_num_threads(threads)
    assert medians[0] == medians[1] == medians[2]


def test_inputs_that_require_gradients():
    source, target = torch.randn(9, 3, requires_grad=True), torch.randn(8, 3)
    assert not cpu.median_distance(source, target).requires_grad
