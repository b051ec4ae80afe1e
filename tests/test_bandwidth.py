"""Bandwidth rules against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmmd
from fastmmd import Gaussian, median
from tests.helpers import FAST, evaluate, layers

BACKENDS = [*FAST, "reference"]


def pooled_distances(source, target):
    """The squared distances of all pairs i < j, sorted."""
    z = torch.cat([source, target]).detach().double()
    distances = (z[:, None] - z[None]).square().sum(-1)
    rows, columns = torch.triu_indices(len(z), len(z), 1)
    return distances[rows, columns].sort().values


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 40), dim=st.integers(1, 20), seed=st.integers(0, 99))
def test_rules_follow_their_definitions(backend, n, m, dim, seed):
    source, target = layers(n, (dim,), seed)[0], layers(m, (dim,), seed + 1, 1.0)[0]
    distances, total = pooled_distances(source, target), n + m
    expected = {
        "mean": distances.mean().item(),
        "mean_all": 2 * distances.sum().item() / total**2,
        "median": distances[(len(distances) - 1) // 2].item(),
        2.5: 2.5,
    }
    for rule, value in expected.items():
        result = evaluate([source], [target], (Gaussian(rule),), backend=backend)
        assert result.bandwidths.item() == pytest.approx(value, rel=1e-10)
    learned = torch.tensor(1.5, dtype=torch.float64)
    assert evaluate([source], [target], (Gaussian(learned),), backend=backend).bandwidths.item() == 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [1 << 20, 5_000, 300])
@pytest.mark.parametrize("n", [3, 64, 129])
def test_streamed_median_is_exact(monkeypatch, dtype, tile, n):
    """Radix selection over ragged tiles finds the same number as sorting all distances."""
    monkeypatch.setattr(median, "TILE_ELEMENTS", tile)
    x = torch.randn(n, 5, dtype=dtype)
    streamed = median.streaming_median(x[: n // 2], x[n // 2 :])
    assert streamed.dtype == dtype
    expected = pooled_distances(x[: n // 2], x[n // 2 :])
    assert streamed.item() == pytest.approx(expected[(len(expected) - 1) // 2].item(), rel=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("tile", [1 << 20, 300])
def test_median_with_ties(monkeypatch, tile):
    """Integer features: few distinct distances, exact in floating point, so the answer must be one of them."""
    monkeypatch.setattr(median, "TILE_ELEMENTS", tile)
    x = torch.randint(0, 3, (60, 2), generator=torch.Generator().manual_seed(0)).double()
    expected = pooled_distances(x[:25], x[25:])
    streamed = median.streaming_median(x[:25], x[25:])
    assert streamed.item() == pytest.approx(expected[(len(expected) - 1) // 2].item(), abs=1e-12)


def test_mean_rule_at_a_large_common_mean():
    """The closed form is a difference of large sums unless the mean is subtracted first."""
    source, target = torch.randn(50, 256) + 100, torch.randn(40, 256) + 100
    expected = pooled_distances(source, target).mean().item()
    for backend in ("torch", "auto"):
        result = fastmmd.discrepancy([source], [target], [Gaussian()], backend=backend)
        assert result.bandwidths.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bandwidth_tensor_is_not_written(backend):
    given_bandwidth = torch.tensor(10.0)
    source, target = torch.randn(9, 3), torch.randn(8, 3)
    fastmmd.mmd(source, target, Gaussian(given_bandwidth), backend=backend)
    assert given_bandwidth.item() == 10.0


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e25, 1e30])
@pytest.mark.parametrize("rule", ["mean", "mean_all", "median"])
def test_a_rule_serves_features_whose_squares_leave_fp32(rule, size):
    source, target = layers(20, (4,), 0, dtype=torch.float32)[0], layers(17, (4,), 1, 1.0, torch.float32)[0]
    scaled = fastmmd.mmd(source * size, target * size, Gaussian(rule))
    torch.testing.assert_close(scaled, fastmmd.mmd(source, target, Gaussian(rule)), rtol=1e-5, atol=0)
