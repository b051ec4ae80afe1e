"""Data whose size is far from its bandwidth's: right where it can be, and a warning where not."""

import warnings
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd import Gaussian, conditioning, dtypes, median
from fastmmd.backends import torch_tiles
from fastmmd.bandwidth import given_bandwidths
from tests.helpers import call_of, evaluate, relative

EXACT = ["cpu", "torch", "reference"]


def with_far_rows(size, rows=(0,), n=32):
    i = torch.arange(8 * n, dtype=torch.float64).reshape(n, 8)
    source, target = torch.sin(0.37 * i * i + i), torch.sin(0.37 * i * i + i + 0.5) + 0.3
    for row in rows:
        source[row] = size
    return source.float(), target.float()


def two_sizes(size):
    """One feature of two values far apart, one of size 1: distances are of size 1 or of size^2."""
    i = torch.arange(64)
    source = torch.stack([size * (i % 2), torch.sin(i * 1.7)], 1)
    target = torch.stack([size * (i % 2), torch.sin(i * 1.7 + 0.9) + 0.3], 1)
    return source, target


@pytest.mark.parametrize("size", [1e3, 1e5, 1e10, 1e15])
@pytest.mark.parametrize("backend", EXACT)
def test_a_far_row_leaves_the_median_and_the_loss(backend, size):
    source, target = with_far_rows(size)
    result = evaluate([source], [target], (Gaussian("median", (1,)),), backend=backend)
    assert result.bandwidths.item() == pytest.approx(8.0591, rel=1e-5)
    assert result.loss.item() == pytest.approx(0.076989, rel=1e-5)
    assert result.gradients[0].norm().item() == pytest.approx(0.0278, rel=2e-3)


@pytest.mark.parametrize("rows", [(0, 1), (0, 5, 31), (3, 4, 5, 6)])
@pytest.mark.parametrize("block", [1 << 21, 300], ids=["one block", "streaming"])
def test_several_far_rows_leave_the_median(monkeypatch, rows, block):
    monkeypatch.setattr(median, "TILE_ELEMENTS", block)
    source, target = with_far_rows(1e6, rows)
    exact = torch.pdist(torch.cat([source, target]).double()).square().sort().values
    assert median.streaming_median(source, target).item() == pytest.approx(
        exact[(len(exact) - 1) // 2].item(), rel=1e-6
    )


# As on a GPU, where no condition is read.
PRODUCTS = torch_tiles.Config(product_condition=float("inf"))


@pytest.mark.parametrize("rule", ["median", 8.0])
@pytest.mark.parametrize("row", [0, 17])
@pytest.mark.parametrize("size", [1e3, 1e5, 1e10])
def test_a_far_row_leaves_the_products_of_the_others(rule, row, size):
    source, target = with_far_rows(size, (row,))
    exact = evaluate([source], [target], (Gaussian(rule, (1,)),), torch.float64, backend="reference")
    kernels = (Gaussian(rule, (1,)),)
    call = call_of([source], [target], kernels, bandwidths=given_bandwidths(kernels, [source], [target]))
    loss, statistics, gradients, _ = torch_tiles.run(call, PRODUCTS)
    assert statistics[2].item() == pytest.approx(exact.bandwidths.item(), rel=1e-6)
    assert loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)
    near = [i for i in range(32) if i != row]
    assert relative(gradients[0][near], exact.gradients[0][near]) < 1e-5


def two_points(n, dim):
    """Most pairs are of equal rows, none of them at the centre."""
    points = torch.randn(2, dim, generator=torch.Generator().manual_seed(0))
    return points[(torch.arange(n) % 8 > 4).long()]


@pytest.mark.parametrize("dim", [7, 300])
def test_round_off_of_a_product_is_no_distance(dim):
    source, target = two_points(41, dim), two_points(57, dim)
    exact = evaluate([source], [target], (Gaussian("median"),), torch.float64, backend="reference")
    call = call_of([source], [target], (Gaussian("median"),), bandwidths=torch.zeros(1).double())
    assert exact.bandwidths.item() == 0
    assert torch_tiles.run(call, PRODUCTS).loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1 << 21, 300], ids=["one block", "streaming"])
@pytest.mark.parametrize("dim", [7, 300])
def test_streaming_median_of_equal_rows(monkeypatch, dtype, block, dim):
    monkeypatch.setattr(median, "TILE_ELEMENTS", block)
    assert median.streaming_median(two_points(41, dim).to(dtype), two_points(57, dim).to(dtype)).item() == 0


@pytest.mark.parametrize("kernel", [Gaussian(1.0, (1,)), Gaussian(torch.tensor(1.0), (1,)), Gaussian(4.0, (0.25,))])
@pytest.mark.parametrize("size", [30.0, 3e3, 1e4, 1e5, 1e7])
@pytest.mark.parametrize("backend", EXACT)
def test_a_bandwidth_far_below_the_data(backend, size, kernel):
    source, target = two_sizes(size)
    result = evaluate([source], [target], (kernel,), backend=backend)
    assert result.loss.item() == pytest.approx(0.017846, abs=1e-6)
    assert result.gradients[0].norm().item() == pytest.approx(0.0144381, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    dim=st.integers(1, 20),
    size=st.sampled_from([1.0, 30.0, 1e3, 1e5, 1e8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    rule=st.sampled_from(["median", 0.7, 3.0]),
    seed=st.integers(0, 99),
)
def test_no_worse_than_plain_differences(n, m, dim, size, dtype, rule, seed):
    """Clusters of size 1, `size` apart, in both domains; the yardstick is dense fp32 arithmetic by differences."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for rows in (n, m):
        x = torch.randn(rows, dim, generator=generator) + size * torch.randint(0, 2, (rows, 1), generator=generator)
        inputs.append([x.to(dtype)])
    kernels = (Gaussian(rule, (0.5, 1)),)
    exact = evaluate(*inputs, kernels, torch.float64, backend="reference")
    plain = evaluate(*inputs, kernels, backend="reference")
    result = evaluate(*inputs, kernels, backend="torch")
    eps = torch.finfo(result.loss.dtype).eps
    torch.testing.assert_close(result.bandwidths.double(), exact.bandwidths, rtol=20 * eps, atol=0)
    assert abs(result.loss.item() - exact.loss.item()) <= 2 * abs(plain.loss.item() - exact.loss.item()) + 40 * eps
    # Gradients are multiplied in fp64 about a common centre: what that loses is far below fp32.
    lost = 100 * eps if dtype != torch.float64 else 10 * eps * size
    for gradient, plain_gradient, truth in zip(result.gradients, plain.gradients, exact.gradients, strict=True):
        error, allowed = (g.double() - truth for g in (gradient, plain_gradient))
        assert error.norm() <= 2 * allowed.norm() + lost * (truth.norm() + 1)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("far", [0.0, 1e5])
def test_a_median_of_zero_counts_equal_rows_alone(backend, far):
    """Most rows coincide. Others that differ a little must not count as equal to them because of a far row."""
    source, target = torch.full((20, 3), 0.3), torch.full((20, 3), 0.3)
    source[:4, 0] = torch.tensor([1.0, 1.1, 1.2, 1.3])
    source[4] += far
    exact = evaluate([source], [target], (Gaussian("median"),), torch.float64, backend="reference")
    result = evaluate([source], [target], (Gaussian("median"),), backend=backend)
    assert result.bandwidths.item() == 0
    assert result.loss.item() == pytest.approx(exact.loss.item(), rel=1e-6)
    assert result.loss > 0


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    dim=st.integers(1, 9),
    equal=st.integers(0, 40),
    size=st.sampled_from([0.0, 1.0, 1e4, 1e7]),
    offset=st.sampled_from([0.0, 1e6]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    block=st.sampled_from([1 << 21, 500, 40]),
    products=st.booleans(),
    seed=st.integers(0, 99),
)
def test_streaming_median_by_products_and_by_differences(n, m, dim, equal, size, offset, dtype, block, products, seed):
    """Clusters and equal rows: the definition's number, and exactly 0 where the middle pair is of equal rows."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(0, 2, (n + m, 1), generator=generator)
    x = (torch.randn(n + m, dim, dtype=torch.float64, generator=generator) + size * cluster + offset).to(dtype)
    x[:equal] = x[0].clone()
    distances = (x.double()[:, None] - x.double()).square().sum(-1)[torch.triu_indices(n + m, n + m, 1).unbind()]
    expected = distances.sort().values[(len(distances) - 1) // 2].item()
    with patch.object(median, "TILE_ELEMENTS", block), patch.object(dtypes, "_has_float64", lambda _: products):
        streamed = median.streaming_median(x[:n], x[n:])
    lost = 1e-14 * dim * (1 + size**2) if products else 0.0
    assert streamed.item() == pytest.approx(expected, rel=20 * torch.finfo(streamed.dtype).eps, abs=lost)
    if expected == 0:
        assert streamed.item() == 0


class Copy:
    """A copy that arrives when the test says so."""

    made: ClassVar[list] = []

    def __init__(self, values):
        self.values, self.here = values.clone(), False
        Copy.made.append(self)

    def arrived(self):
        return self.here


@pytest.fixture
def device(monkeypatch):
    """CPU tensors count as a device's."""
    monkeypatch.setattr(Copy, "made", [])
    monkeypatch.setattr(conditioning, "HostCopy", Copy)
    monkeypatch.setattr(conditioning, "_watched", lambda _: True)
    monkeypatch.setattr(conditioning, "_by_problem", {})
    monkeypatch.setattr(conditioning, "_warned", set())
    conditioning._watch_of.cache_clear()
    yield
    conditioning._watch_of.cache_clear()


def warned(call, backend):
    """Messages of the warnings that a call brings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        conditioning.watch(call, backend)
    return [str(warning.message) for warning in caught]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_warning_comes_once_the_number_is_here(backend):
    source, target = two_sizes(3e3)
    good = torch.randn(64, 3)
    kernels = (Gaussian(), Gaussian(1e7), Gaussian(1.0, (0.5, 1)))
    call = call_of([good, source, source], [good, target, target], kernels)
    assert warned(call, backend) == []
    assert warned(call, backend) == []
    assert len(Copy.made) == 1
    Copy.made[0].here = True
    (message,) = warned(call, backend)
    assert "layer 2" in message
    assert "bandwidth 1:" in message
    assert ".double()" in message
    for _ in range(3 * conditioning.EVERY):  # said once; the other layer is measured on
        for copy in Copy.made:
            copy.here = True
        assert warned(call, backend) == []
    assert 3 <= len(Copy.made) <= 5


@pytest.mark.usefixtures("device")
def test_a_given_bandwidth_is_measured_with_its_value():
    source, target = two_sizes(3e3)
    for value, expected in ((1.0, 1), (1e7, 0)):
        kernels = [Gaussian("median", (value,))]  # another kernel each time
        call = call_of([source], [target], kernels, bandwidths=torch.ones(1, dtype=torch.float64))
        warned(call, "torch")
        Copy.made[-1].here = True
        assert len(warned(call, "torch")) == expected


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("bad", [0.0, float("nan"), -1.0])
def test_no_warning_of_what_shows_itself(bad):
    source, target = two_sizes(3e3)
    call = call_of([source], [target], [Gaussian("median")], bandwidths=torch.full((1,), bad).double())
    warned(call, "torch")
    Copy.made[-1].here = True
    assert warned(call, "torch") == []


@pytest.mark.usefixtures("device")
def test_what_is_safe_is_not_measured():
    source, target = two_sizes(3e3)
    warned(call_of([source] * 2, [target] * 2, [Gaussian(), Gaussian("mean_all")]), "torch")
    warned(call_of([source], [target], [Gaussian(2.0)]), "reference")
    assert not Copy.made
    call = call_of([source.double()], [target.double()], [Gaussian(1.0)])
    warned(call, "torch")
    Copy.made[-1].here = True
    assert warned(call, "torch") == []


@pytest.mark.usefixtures("device")
def test_one_far_row_alone_is_no_reason():
    source, target = with_far_rows(1e10)
    call = call_of([source], [target], [Gaussian(8.0, (1,))])
    warned(call, "torch")
    Copy.made[-1].here = True
    assert warned(call, "torch") == []


@pytest.mark.usefixtures("device")
def test_nothing_is_measured_or_looked_at_in_a_graph(monkeypatch):
    source, target = two_sizes(3e3)
    call = call_of([source], [target], [Gaussian(1.0)])
    with monkeypatch.context() as context:
        context.setattr(conditioning, "_capturing", lambda _: True)
        for _ in range(3):
            assert warned(call, "torch") == []
        assert not Copy.made
    for _ in range(conditioning.EVERY):
        warned(call, "torch")
    (copy,) = Copy.made
    copy.here = True
    with monkeypatch.context() as context:
        context.setattr(conditioning, "_capturing", lambda _: True)
        assert warned(call, "torch") == []
    assert len(warned(call, "torch")) == 1


@pytest.mark.usefixtures("device")
def test_a_weight_that_grows_measures_no_more_often():
    source, target = two_sizes(1.0)
    for step in range(conditioning.EVERY):
        warned(call_of([source], [target], [Gaussian(1.0)], joint=step / 10), "torch")
    assert len(Copy.made) == 1


@pytest.mark.usefixtures("device")
def test_problems_are_not_kept_without_bound():
    source, target = two_sizes(1.0)
    for step in range(2 * conditioning.MAX_PROBLEMS):
        conditioning.watch(call_of([source], [target], [Gaussian(1.0)], joint=step / 10), "torch")
        assert len(conditioning._by_problem) <= conditioning.MAX_PROBLEMS


def test_a_cpu_is_not_watched(monkeypatch):
    monkeypatch.setattr(conditioning, "HostCopy", Copy)
    source, target = two_sizes(3e3)
    conditioning.watch(call_of([source], [target], [Gaussian(1.0)]), "cpu")
    assert not Copy.made


def test_a_copy_to_the_host_needs_no_cuda():
    copy = conditioning.HostCopy(torch.tensor([1.0, 2.0]))
    assert copy.arrived()
    assert copy.values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("multipliers", [(1e-3,), (1e-5, 1), (1e-6,)])
@pytest.mark.parametrize("backend", EXACT)
def test_small_multipliers_of_a_mean(backend, multipliers):
    """Near-duplicates tell: their distances are of the size of the sharpest Gaussian."""
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(60, 5, generator=generator) for _ in range(2))
    target[:30] = source[:30] + 1e-3 * torch.randn(30, 5, generator=generator)
    exact = evaluate([source], [target], (Gaussian("mean", multipliers),), torch.float64, backend="reference")
    result = evaluate([source], [target], (Gaussian("mean", multipliers),), backend=backend)
    assert result.loss.item() == pytest.approx(exact.loss.item(), rel=1e-6)
    assert relative(result.gradients[0], exact.gradients[0]) < 1e-6
