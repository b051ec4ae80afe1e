"""What every route of a GPU backend must compute, against the dense reference in fp64. The tests are collected where a
backend's own tests import them and give a fixture `route`.

Memory is poisoned: inputs lie in larger tensors full of NaN, at odd offsets; what torch allocates is filled with NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastmmd import Gaussian
from fastmmd.backends import reference
from fastmmd.problem import Problem, make_problem
from tests.helpers import JAN, layers, plain, relative

MIXED = (Gaussian("mean_all", (3, 1, 0.5), (0.2, 2, 0)), Gaussian(7.0, (1.5, 0.1)), Gaussian(multipliers=(1, 2)))


class Route(NamedTuple):
    name: str
    # (problem, sources, targets, bandwidths, needs_grad, dtype, format) -> loss, report, gradients
    compute: Callable[..., tuple[Tensor, Tensor, list[Tensor | None]]]
    widest: torch.dtype = torch.float64
    layers: int = 8
    features: int = 1 << 20  # at most, in all layers

    def run(
        self,
        problem: Problem,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        needs_grad: Sequence[bool] | None = None,
        bandwidths: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        format: str = "ieee",
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Skips the test if the route can't take the problem."""
        dims = [x.shape[1] for x in sources]
        if len(dims) > self.layers or sum(dims) > self.features:
            pytest.skip(f"{self.name} takes at most {self.layers} layers of {self.features} features")
        dtype = dtype if self.widest == torch.float64 else torch.float32
        needs_grad = [True] * 2 * len(sources) if needs_grad is None else list(needs_grad)
        inputs = [[surrounded(x) for x in side] for side in (sources, targets)]
        return self.compute(problem, *inputs, bandwidths, needs_grad, dtype, format)

    def tolerance(self, of_fp64: float) -> float:
        return of_fp64 if self.widest == torch.float64 else 1e-5


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Deterministic algorithms fill new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def surrounded(x: Tensor) -> Tensor:
    """The same values inside a larger tensor of NaN, rows an odd number of elements apart."""
    n, d = x.shape
    buffer = torch.full((n + 5, d + 7 + d % 2), torch.nan, dtype=x.dtype)
    inside = buffer[2 : 2 + n, 3 : 3 + d]
    inside.copy_(x.detach())
    return inside


def problem_of(
    n: int,
    m: int,
    kernels: Sequence[Gaussian],
    joint: float = 0.7,
    marginal: Sequence[float] | None = None,
    estimator: str = "biased",
) -> Problem:
    marginal = tuple(0.1 * (index + 1) for index in range(len(kernels))) if marginal is None else tuple(marginal)
    return make_problem(n, m, tuple(k.static for k in kernels), joint, marginal, estimator)


def exact(problem: Problem, sources, targets, bandwidths=None):
    wide = [x.detach().double().requires_grad_() for x in (*sources, *targets)]
    loss, report = reference.evaluate(problem, wide[: len(sources)], wide[len(sources) :], bandwidths)
    return loss.detach(), report, torch.autograd.grad(loss, wide)


def check(found, truth, tolerance: float) -> None:
    """`tolerance` times the size of a kernel for values, relative to the largest element for gradients."""
    torch.testing.assert_close(found[0].double(), truth[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1].double(), truth[1], rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(found[2], truth[2], strict=True):
        if mine is not None:
            scale = max(theirs.abs().max().item(), 1e-3)
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (31, 33), (33, 64), (70, 5)])
@pytest.mark.parametrize("kernels", [(Gaussian(),), JAN, MIXED], ids=len)
def test_fp64(route, n, m, kernels):
    dims = (33, 70, 1)[: len(kernels)]
    sources, targets = layers(n, dims, 1), layers(m, dims, 2, 0.5)
    estimator = "unbiased" if n > 40 else "biased"
    problem = problem_of(n, m, kernels, estimator=estimator)
    check(
        route.run(problem, sources, targets, dtype=torch.float64),
        exact(problem, sources, targets),
        route.tolerance(1e-12),
    )


def test_eight_layers(route):
    kernels = tuple(Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 9))
    dims = (1, 3, 17, 64, 33, 2, 7, 20)
    sources, targets = layers(12, dims, 1), layers(9, dims, 2, 0.5)
    problem = problem_of(12, 9, kernels)
    check(
        route.run(problem, sources, targets, dtype=torch.float64),
        exact(problem, sources, targets),
        route.tolerance(1e-12),
    )


def test_257_rows(route):
    sources, targets = layers(257, (20, 4), 1), layers(64, (20, 4), 2, 0.3)
    problem = problem_of(257, 64, JAN)
    check(
        route.run(problem, sources, targets, dtype=torch.float64),
        exact(problem, sources, targets),
        route.tolerance(1e-12),
    )


@pytest.mark.parametrize("shift", [0.3, 100.0])
@pytest.mark.parametrize(("n", "m", "dims"), [(36, 36, (256, 31)), (130, 65, (70, 8))])
def test_fp32_is_as_exact_as_careful_torch(route, n, m, dims, shift):
    """Error against fp64 at most twice that of the same mathematics in plain fp32 torch (and a few ulps of 1)."""
    sources, targets = layers(n, dims, 1, shift, torch.float32), layers(m, dims, 2, shift + 0.1, torch.float32)
    problem = problem_of(n, m, JAN, 1.0, (0.0, 0.0))
    truth = exact(problem, sources, targets)
    yardstick, yardstick_gradients = plain(sources, targets, truth[1][3:].tolist(), JAN)
    loss, _, gradients = route.run(problem, sources, targets)
    assert abs(loss.item() - truth[0].item()) <= 2 * abs(yardstick.item() - truth[0].item()) + 5e-7
    for mine, theirs, gradient in zip(gradients, yardstick_gradients, truth[2], strict=True):
        assert relative(mine, gradient) <= 2 * relative(theirs, gradient) + 2e-6


@settings(max_examples=8)
@given(data=st.data())
def test_any_problem(route, data):
    n, m = data.draw(st.integers(1, 70), "n"), data.draw(st.integers(1, 70), "m")
    dims = data.draw(st.lists(st.integers(1, 130), min_size=1, max_size=3), "dims")
    number = st.floats(0.05, 20)
    multipliers = st.lists(st.one_of(number, st.sampled_from([0.25, 0.5, 1, 2, 4, 8])), min_size=1, max_size=7)
    kernel = st.builds(Gaussian, st.one_of(st.sampled_from(["mean", "mean_all"]), number), multipliers.map(tuple))
    kernels = data.draw(st.lists(kernel, min_size=len(dims), max_size=len(dims)), "kernels")
    weights = data.draw(st.lists(st.floats(0, 2), min_size=1 + len(dims), max_size=1 + len(dims)), "weights")
    estimator = data.draw(st.sampled_from(["biased", "unbiased"])) if min(n, m) > 1 else "biased"
    needs_grad = data.draw(st.lists(st.booleans(), min_size=2 * len(dims), max_size=2 * len(dims)), "needs_grad")
    seed = data.draw(st.integers(0, 99), "seed")
    sources, targets = layers(n, dims, seed), layers(m, dims, seed + 100, data.draw(st.floats(-3, 3), "shift"))
    assume(len(dims) <= route.layers and sum(dims) <= route.features)
    problem = problem_of(n, m, kernels, weights[0], weights[1:], estimator)
    found = route.run(problem, sources, targets, needs_grad, dtype=torch.float64)
    assert [g is not None for g in found[2]] == needs_grad
    check(found, exact(problem, sources, targets), route.tolerance(1e-11))


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str)
def test_half_inputs_are_widened_first(route, dtypes):
    """Features of norm 1000, whose squares overflow fp16; probabilities beside them in fp32, as under autocast."""
    sides = []
    for n, seed, shift in ((40, 1, 0.0), (30, 2, 0.2)):
        features, softmax = layers(n, (64, 8), seed, shift)
        sides.append([(125 * features).to(dtypes[0]), softmax.to(dtypes[1])])
    problem = problem_of(40, 30, JAN)
    found, truth = route.run(problem, *sides), exact(problem, *sides)
    check(found, truth, 4e-6)
    for mine, theirs in zip(found[2], truth[2], strict=True):
        assert relative(mine, theirs) < 4e-6


def test_one_sided_and_absent_gradients(route):
    sources, targets = layers(40, (20, 4), 1, dtype=torch.float32), layers(33, (20, 4), 2, 0.3, torch.float32)
    problem = problem_of(40, 33, JAN)
    loss, report, gradients = route.run(problem, sources, targets)
    for needs_grad in ([False] * 4, [True, False, False, False], [False, False, False, True]):
        other_loss, other_report, others = route.run(problem, sources, targets, needs_grad)
        torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=2e-7)
        torch.testing.assert_close(other_report, report, rtol=1e-5, atol=2e-7)
        for need, mine, other in zip(needs_grad, gradients, others, strict=True):
            assert (other is None) != need
            if need:
                torch.testing.assert_close(other, mine)


def test_given_bandwidths(route):
    """Ones where the kernel has its own; a negative one gives NaN, in its layer's values and in the joint ones."""
    kernels = (Gaussian("median"), Gaussian(1.68, (1,)))
    sources, targets = layers(20, (20, 4), 1), layers(33, (20, 4), 2, 0.3)
    problem = problem_of(20, 33, kernels)
    for value in (37.0, 1e-3):
        given = torch.tensor([value, 1.0], dtype=torch.float64)
        truth = exact(problem, sources, targets, given)
        check(
            route.run(problem, sources, targets, bandwidths=given, dtype=torch.float64), truth, route.tolerance(1e-12)
        )
    loss, report, _ = route.run(problem, sources, targets, bandwidths=torch.tensor([-1.0, 1.0]).double())
    assert loss.isnan()
    assert report[:2].isnan().all()
    assert not report[2].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bandwidth_zero_is_a_limit(route, dtype):
    """1 at distance 0 and 0 beyond, slope 0: constant features, and a median of 0."""
    dtype = dtype if route.widest == torch.float64 else route.widest
    kernels = (Gaussian(multipliers=(1, 2), weights=(0.7, 0.6)),)  # whose sum fp32 rounds
    constant = [torch.full((12, 7), 0.1, dtype=dtype)], [torch.full((9, 7), 0.1, dtype=dtype)]
    problem = problem_of(12, 9, kernels, 1.0, (0.0,))
    loss, report, gradients = route.run(problem, *constant, dtype=dtype)
    assert abs(loss.item()) < 2 * torch.finfo(dtype).eps
    assert report[2] == 0
    assert not any(g.any() for g in gradients)

    source, target = torch.zeros(10, 2, dtype=dtype), torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 7, dtype=dtype)
    problem = problem_of(10, 10, (Gaussian("median", (1,)),), 1.0, (0.0,))
    loss, _, gradients = route.run(problem, [source], [target], bandwidths=torch.zeros(1).double(), dtype=dtype)
    assert loss.item() == pytest.approx(1 + (0.3**2 + 0.7**2) - 2 * 0.7, rel=1e-5)
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("format", ["ieee", "tf32", "bf16"])
def test_nan_and_infinity_are_not_hidden(route, bad, format):
    source, target = layers(40, (7,), 0)[0].detach().float(), layers(40, (7,), 1)[0].detach().float()
    source[3, 2] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, where Triton interprets
        loss, _, gradients = route.run(problem_of(40, 40, JAN[:1]), [source], [target], format=format)
    assert loss.isnan()
    assert gradients[0].isnan().any()


def test_a_biased_statistic_is_never_negative(route):
    x = layers(40, (20, 4), 1, dtype=torch.float32)
    loss, report, gradients = route.run(problem_of(40, 40, JAN), x, x)
    assert (report[:3] >= 0).all()
    assert 0 <= loss.item() <= 1e-6
    assert max(g.abs().max().item() for g in gradients) <= 1e-6
