"""What every route of a GPU backend must compute, against the dense reference in fp64: `RouteTests` of plain calls and
`FormTests` of calls whose pairs have weights of their own. Subclasses give the routes.

Memory is poisoned: inputs lie in larger tensors full of NaN, at odd offsets; what torch allocates is filled with NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastmmd import Gaussian
from fastmmd.backends import Backend, reference
from fastmmd.call import Call, Form, Result
from fastmmd.problem import MAX_LAYERS
from tests.helpers import JAN, call_of, layers, plain, plain_kernel, relative

MIXED = (Gaussian("mean_all", (3, 1, 0.5), (0.2, 2, 0)), Gaussian(7.0, (1.5, 0.1)), Gaussian(multipliers=(1, 2)))


@dataclass(frozen=True, kw_only=True)
class Route:
    """A backend with a config.

    float64: whether it computes in fp64; elsewhere its fp64 inputs are narrowed.
    max_layers, max_features: of all layers; tests of more are skipped.
    max_columns: of a form's W; likewise.
    """

    name: str
    backend: Backend
    config: Any
    float64: bool = True
    max_layers: int = MAX_LAYERS
    max_features: int | None = None
    max_columns: int | None = None

    def config_for(self, call: Call) -> Any:
        return self.config

    def takes(self, dims: Sequence[int]) -> bool:
        return len(dims) <= self.max_layers and (self.max_features is None or sum(dims) <= self.max_features)

    def takes_form(self, form: Form) -> bool:
        return self.max_columns is None or form.w.shape[1] <= self.max_columns

    def run(self, call: Call) -> Result:
        """On inputs in poisoned memory. Skips the test if the route can't take the call."""
        if not self.takes(call.dims):
            pytest.skip(f"{self.name} takes at most {self.max_layers} layers of {self.max_features} features")
        sides = (call.sources, call.targets)
        sources, targets = ([self.poisoned(x) for x in side] for side in sides)
        call = call._replace(sources=sources, targets=targets)
        if call.form is not None:
            if not self.takes_form(call.form):
                pytest.skip(f"{self.name} takes at most {self.max_columns} columns of W")
            call = call._replace(form=call.form._replace(w=self.poisoned(call.form.w)))
        return self.backend.run(call, self.config_for(call))

    def poisoned(self, x: Tensor) -> Tensor:
        return surrounded(x.to(self.dtype(x.dtype)))

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if dtype == torch.float64 and not self.float64 else dtype

    def tolerance(self, of_float64: float) -> float:
        return of_float64 if self.float64 else 1e-5


def surrounded(x: Tensor) -> Tensor:
    """The same values inside a larger tensor of NaN, rows an odd number of elements apart."""
    n, d = x.shape
    buffer = torch.full((n + 5, d + 7 + d % 2), torch.nan, dtype=x.dtype)
    inside = buffer[2 : 2 + n, 3 : 3 + d]
    inside.copy_(x.detach())
    return inside


def route_call(
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    kernels: Sequence[Gaussian],
    joint: float = 0.7,
    marginal: Sequence[float] | None = None,
    **options: Any,
) -> Call:
    """`tests.helpers.call_of` with all terms of the loss."""
    marginal = [0.1 * (index + 1) for index in range(len(kernels))] if marginal is None else marginal
    return call_of(sources, targets, kernels, joint=joint, marginal=marginal, **options)


def exact(call: Call) -> Result:
    """The dense reference in fp64, with all gradients."""
    sources, targets = ([x.detach().double() for x in side] for side in (call.sources, call.targets))
    has_loss = call.form is None or call.form.a is not None
    return reference.run(call._replace(sources=sources, targets=targets, needs_grad=[has_loss] * len(call.needs_grad)))


def check(result: Result, truth: Result, tolerance: float) -> None:
    """`tolerance` times the size of a kernel for values, relative to the largest element for gradients."""
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(result.statistics.double(), truth.statistics, rtol=tolerance, atol=tolerance)
    for gradient, true_gradient in zip(result.gradients, truth.gradients, strict=True):
        if gradient is not None:
            scale = max(true_gradient.abs().max().item(), 1e-3)
            torch.testing.assert_close(gradient.double(), true_gradient, rtol=0, atol=tolerance * scale)


class PoisonedMemory:
    @pytest.fixture(autouse=True)
    def poisoned_memory(self):
        """Deterministic algorithms fill new memory with NaN."""
        torch.use_deterministic_algorithms(True)
        yield
        torch.use_deterministic_algorithms(False)


class RouteTests(PoisonedMemory):
    """Subclasses give the fixture `route`."""

    @pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (31, 33), (33, 64), (70, 5)])
    @pytest.mark.parametrize("kernels", [(Gaussian(),), JAN, MIXED], ids=len)
    def test_fp64_is_exact(self, route, n, m, kernels):
        dims = (33, 70, 1)[: len(kernels)]
        estimator = "unbiased" if n > 40 else "biased"
        call = route_call(layers(n, dims, 1), layers(m, dims, 2, 0.5), kernels, estimator=estimator)
        check(route.run(call), exact(call), route.tolerance(1e-12))

    def test_eight_layers(self, route):
        kernels = tuple([Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 9)])
        dims = (1, 3, 17, 64, 33, 2, 7, 20)
        call = route_call(layers(12, dims, 1), layers(9, dims, 2, 0.5), kernels)
        check(route.run(call), exact(call), route.tolerance(1e-12))

    def test_257_rows(self, route):
        call = route_call(layers(257, (20, 4), 1), layers(64, (20, 4), 2, 0.3), JAN)
        check(route.run(call), exact(call), route.tolerance(1e-12))

    @pytest.mark.parametrize("shift", [0.3, 100.0])
    @pytest.mark.parametrize(("n", "m", "dims"), [(36, 36, (256, 31)), (130, 65, (70, 8))])
    def test_fp32_is_as_exact_as_careful_torch(self, route, n, m, dims, shift):
        """Error against fp64 at most twice that of the same mathematics in plain fp32 torch (and a few ulps of 1)."""
        sources, targets = layers(n, dims, 1, shift, torch.float32), layers(m, dims, 2, shift + 0.1, torch.float32)
        call = route_call(sources, targets, JAN, joint=1.0, marginal=(0.0, 0.0))
        truth, result = exact(call), route.run(call)
        plain_loss, plain_gradients = plain(sources, targets, truth.statistics[3:].tolist(), JAN)
        assert abs(result.loss.item() - truth.loss.item()) <= 2 * abs(plain_loss.item() - truth.loss.item()) + 5e-7
        gradients = zip(result.gradients, plain_gradients, truth.gradients, strict=True)
        for gradient, plain_gradient, true_gradient in gradients:
            assert relative(gradient, true_gradient) <= 2 * relative(plain_gradient, true_gradient) + 2e-6

    @settings(max_examples=8)
    @given(data=st.data())
    def test_any_problem(self, route, data):
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
        assume(route.takes(dims))
        call = route_call(
            sources,
            targets,
            kernels,
            joint=weights[0],
            marginal=weights[1:],
            estimator=estimator,
            needs_grad=needs_grad,
        )
        result = route.run(call)
        assert [gradient is not None for gradient in result.gradients] == needs_grad
        check(result, exact(call), route.tolerance(1e-11))

    @pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str)
    def test_half_inputs_are_widened_first(self, route, dtypes):
        """Features of norm 1000, whose squares overflow fp16; probabilities beside them in fp32, as under autocast."""
        sides = []
        for n, seed, shift in ((40, 1, 0.0), (30, 2, 0.2)):
            features, softmax = layers(n, (64, 8), seed, shift)
            sides.append([(125 * features).to(dtypes[0]), softmax.to(dtypes[1])])
        call = route_call(*sides, JAN)
        result, truth = route.run(call), exact(call)
        check(result, truth, 4e-6)
        for gradient, true_gradient in zip(result.gradients, truth.gradients, strict=True):
            assert relative(gradient, true_gradient) < 4e-6

    def test_one_sided_and_absent_gradients(self, route):
        sources, targets = layers(40, (20, 4), 1, dtype=torch.float32), layers(33, (20, 4), 2, 0.3, torch.float32)
        call = route_call(sources, targets, JAN)
        full = route.run(call)
        for needs_grad in ([False] * 4, [True, False, False, False], [False, False, False, True]):
            partial = route.run(call._replace(needs_grad=needs_grad))
            torch.testing.assert_close(partial.loss, full.loss, rtol=1e-5, atol=2e-7)
            torch.testing.assert_close(partial.statistics, full.statistics, rtol=1e-5, atol=2e-7)
            for needed, expected, gradient in zip(needs_grad, full.gradients, partial.gradients, strict=True):
                if needed:
                    torch.testing.assert_close(gradient, expected)
                else:
                    assert gradient is None

    def test_given_bandwidths(self, route):
        """Ones where the kernel has its own; a negative one gives NaN, in its layer's values and in the joint ones."""
        kernels = (Gaussian("median"), Gaussian(1.68, (1,)))
        call = route_call(layers(20, (20, 4), 1), layers(33, (20, 4), 2, 0.3), kernels)
        for value in (37.0, 1e-3):
            given = call._replace(bandwidths=torch.tensor([value, 1.0], dtype=torch.float64))
            check(route.run(given), exact(given), route.tolerance(1e-12))
        negative = route.run(call._replace(bandwidths=torch.tensor([-1.0, 1.0], dtype=torch.float64)))
        assert negative.loss.isnan()
        assert negative.statistics[:2].isnan().all()
        assert not negative.statistics[2].isnan()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [1.0, 1e-15])
    def test_bandwidth_zero_is_a_limit(self, route, size, dtype):
        """1 at distance 0 and 0 beyond, slope 0: constant features, and a median of 0."""
        kernel = Gaussian(multipliers=(1, 2), weights=(0.7, 0.6))  # whose sum fp32 rounds
        source, target = torch.full((12, 7), 0.1, dtype=dtype), torch.full((9, 7), 0.1, dtype=dtype)
        constant = route.run(route_call([source], [target], [kernel], joint=1.0, marginal=(0.0,)))
        assert abs(constant.loss.item()) < 2 * torch.finfo(route.dtype(dtype)).eps
        assert constant.statistics[2] == 0
        assert not any(gradient.any() for gradient in constant.gradients)

        source, target = torch.zeros(10, 2, dtype=dtype), torch.tensor([[size] * 2] * 3 + [[0.0, 0.0]] * 7, dtype=dtype)
        median = (Gaussian("median", (1,)),)
        zero = torch.zeros(1, dtype=torch.float64)
        equal = route.run(route_call([source], [target], median, joint=1.0, marginal=(0.0,), bandwidths=zero))
        assert equal.loss.item() == pytest.approx(1 + (0.3**2 + 0.7**2) - 2 * 0.7, rel=1e-5)
        assert not any(gradient.any() for gradient in equal.gradients)

    @pytest.mark.parametrize("bandwidth", [1e-9, 1e-30, 1e-37])
    def test_a_bandwidth_far_below_all_distances_is_as_its_limit(self, route, bandwidth):
        """Rows are equal to themselves alone, and their rate times a norm stays finite."""
        sources, targets = layers(20, (4,), 1, dtype=torch.float32), layers(33, (4,), 2, 3.0, torch.float32)
        result = route.run(route_call(sources, targets, [Gaussian(bandwidth, (0.5, 1))], joint=1.0, marginal=(0.0,)))
        assert result.loss.item() == pytest.approx(2 / 20 + 2 / 33, rel=1e-6)
        assert not any(gradient.any() for gradient in result.gradients)

    @pytest.mark.parametrize(
        ("multipliers", "weights"),
        [
            ((0.5, 1, 4), (1, 0.5, 0)),  # the broadest counts for nothing
            ((0.25, 0.5, 1, 2, 4), (0.2, 3, 0, 1, 0.5)),
            ((0.1, 0.35, 5), (1, 1, 1)),  # none is the square of another
            ((1, 1, 2, 2), (1, 2, 3, 4)),
            (tuple(2.0**k for k in range(-7, 3)), (1,) * 10),  # longer than a chain of squares
            ((0.25, 0.5, 1, 2, 4), (1, 1, 1, 1, 1e-37)),  # the broadest is lost beside the others
            ((2.0**-20, 1, 2.0**20), (1, 1, 1e-30)),
        ],
    )
    def test_mixtures_of_any_shape(self, route, multipliers, weights):
        kernels = (Gaussian(multipliers=multipliers, weights=weights), Gaussian(3.0, multipliers, weights))
        call = route_call(layers(35, (20, 4), 1), layers(33, (20, 4), 2, 0.3), kernels)
        check(route.run(call), exact(call), route.tolerance(1e-11))

    def test_features_near_the_smallest_numbers(self, route):
        """While fp32 has numbers for their squared distances."""
        source, target = (1e-17 * layers(n, (5,), n, n / 33, torch.float32)[0].detach() for n in (33, 20))
        call = route_call([source], [target], [Gaussian()], joint=1.0, marginal=(0.0,))
        result, truth = route.run(call), exact(call)
        check(result._replace(gradients=[None, None]), truth, 1e-5)
        assert relative(result.gradients[0], truth.gradients[0]) < 1e-5

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
    def test_nan_and_infinity_are_not_hidden(self, route, bad, precision):
        source, target = layers(40, (7,), 0)[0].detach().float(), layers(40, (7,), 1)[0].detach().float()
        source[3, 2] = bad
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, where Triton interprets
            result = route.run(route_call([source], [target], JAN[:1], precision=precision))
        assert result.loss.isnan()
        assert result.gradients[0].isnan().any()

    def test_a_biased_statistic_is_never_negative(self, route):
        x = layers(40, (20, 4), 1, dtype=torch.float32)
        result = route.run(route_call(x, x, JAN))
        assert (result.statistics[:3] >= 0).all()
        assert 0 <= result.loss.item() <= 1e-6
        assert max(gradient.abs().max().item() for gradient in result.gradients) <= 1e-6


def form_of(
    n: int,
    columns: int,
    *,
    a: str | None = "matrix",
    needs_rows: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Form:
    """W of either sign, whose columns' absolute values add up to about 1; A: "matrix", "diagonal" or None."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, columns, generator=generator, dtype=torch.float64) / n
    matrix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    given = {"matrix": (matrix + matrix.T) / columns, "diagonal": matrix.diagonal() / columns, None: None}
    return Form(w.to(dtype), given[a], needs_rows)


def sample_weights(n: int, m: int, dtype: torch.dtype = torch.float64) -> Form:
    """A column of non-negative weights per domain, two rows in three of weight 0."""
    row = torch.arange(n + m)
    weights = torch.where(row % 3 == 0, 1.0 + row % 7, 0.0).double()
    sides = torch.stack([torch.where(row < n, weights, 0.0), torch.where(row < n, 0.0, weights)])
    return Form(
        (sides / sides.sum(1, keepdim=True)).T.to(dtype), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double(), True
    )


def one_hot(n: int, groups: int, dtype: torch.dtype = torch.float64) -> Form:
    """The mean over pairs of groups of their MMD; rows belong to groups in turn."""
    w = torch.nn.functional.one_hot(torch.arange(n) % groups, groups).double()
    a = (groups * torch.eye(groups).double() - 1) / (groups * (groups - 1) / 2)
    return Form((w / w.sum(0)).to(dtype), a, False)


def class_weights(n: int, m: int, classes: int, dtype: torch.dtype = torch.float64) -> Form:
    """As DSAN's: labels in one domain, probabilities with the other sign in the other; of the last class nobody is."""
    labels = torch.nn.functional.one_hot(torch.arange(n) % max(classes - 1, 1), classes).double()
    generator = torch.Generator().manual_seed(classes)
    probabilities = torch.randn(m, classes, generator=generator, dtype=torch.float64).softmax(1)
    source = labels / labels.sum(0).clamp(min=1)
    share = (labels.sum(0) > 0).double()
    return Form(torch.cat([source, -probabilities / probabilities.sum(0)]).to(dtype), share / share.sum(), False)


def check_form(result: Result, call: Call, tolerance: float) -> None:
    """`tolerance` times the absolute weights of all pairs for values, times those of a column for K W, relative to the
    largest element for gradients."""
    truth, form, problem = exact(call), call.form, call.problem
    w = form.w.double().abs()
    kappa = max(problem.at_zero, problem.product_at_zero, *[layer.at_zero for layer in problem.layers])
    torch.testing.assert_close(
        result.statistics[1 + len(problem.layers) :].double(),
        truth.statistics[1 + len(problem.layers) :],
        rtol=tolerance,
        atol=0,
    )
    assert (result.rows is not None) == form.needs_rows
    if form.needs_rows:
        assert result.rows.shape == form.w.shape
        scale = kappa * max(w.sum(0).max().item(), 1e-30)
        torch.testing.assert_close(result.rows.double(), truth.rows, rtol=0, atol=tolerance * scale)
    if form.a is None:
        assert not any(call.needs_grad)
        return
    a = torch.diag(form.a).abs() if form.a.dim() == 1 else form.a.abs()
    size = (w.sum(0) @ a @ w.sum(0)).item()
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=0, atol=tolerance * kappa * size)
    torch.testing.assert_close(
        result.statistics.double(), truth.statistics, rtol=tolerance, atol=tolerance * kappa * size
    )
    assert [gradient is not None for gradient in result.gradients] == list(call.needs_grad)
    for gradient, true_gradient in zip(result.gradients, truth.gradients, strict=True):
        if gradient is not None and gradient.numel():
            scale = max(true_gradient.abs().max().item(), 1e-3 * size)
            torch.testing.assert_close(gradient.double(), true_gradient, rtol=0, atol=tolerance * scale)


class FormTests(PoisonedMemory):
    """Calls with a form, of all that `fastmmd.call.Form` may be. Subclasses give the fixture `route`."""

    @staticmethod
    def call(n: int, m: int, dims: Sequence[int], kernels: Sequence[Gaussian], form: Form, **options: Any) -> Call:
        dtype = options.pop("dtype", torch.float64)
        sources, targets = layers(n, dims, 1, dtype=dtype), layers(m, dims, 2, 0.5, dtype)
        options.setdefault("needs_grad", [form.a is not None] * (2 * len(dims)))
        return route_call(sources, targets, kernels, form=form, clamp=False, **options)

    @pytest.mark.parametrize("a", ["matrix", "diagonal", None])
    @pytest.mark.parametrize("columns", [1, 2, 3, 6, 17, 33])
    @pytest.mark.parametrize(("n", "m"), [(2, 0), (33, 31), (70, 5)])
    def test_fp64_is_exact(self, route, n, m, columns, a):
        estimator = "unbiased" if n > 40 else "biased"
        form = form_of(n + m, columns, a=a)
        call = self.call(n, m, (33, 5), MIXED[:2], form, estimator=estimator)
        check_form(route.run(call), call, route.tolerance(1e-12))

    @pytest.mark.parametrize("needs_rows", [True, False])
    def test_eight_layers(self, route, needs_rows):
        kernels = tuple([Gaussian(multipliers=(0.5 * q, q)) for q in range(1, 9)])
        dims = (1, 3, 17, 64, 33, 2, 7, 20)
        call = self.call(12, 9, dims, kernels, form_of(21, 6, needs_rows=needs_rows))
        check_form(route.run(call), call, route.tolerance(1e-12))

    @pytest.mark.parametrize("m", [0, 64])
    def test_257_rows(self, route, m):
        call = self.call(257, m, (20, 4), JAN, form_of(257 + m, 6))
        check_form(route.run(call), call, route.tolerance(1e-12))

    @settings(max_examples=12)
    @given(data=st.data())
    def test_any_problem(self, route, data):
        n, m = data.draw(st.sampled_from([1, 2, 31, 33, 64, 70]), "n"), data.draw(st.sampled_from([0, 1, 31, 64]), "m")
        assume(n + m > 1)
        dims = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3), "dims")
        number = st.floats(0.05, 20)
        multipliers = st.lists(st.one_of(number, st.sampled_from([0.5, 1, 2])), min_size=1, max_size=5)
        kernel = st.builds(Gaussian, st.one_of(st.sampled_from(["mean", "mean_all"]), number), multipliers.map(tuple))
        kernels = data.draw(st.lists(kernel, min_size=len(dims), max_size=len(dims)), "kernels")
        terms = data.draw(st.lists(st.floats(0, 2), min_size=1 + len(dims), max_size=1 + len(dims)), "terms")
        a = data.draw(st.sampled_from(["matrix", "diagonal", None]), "a")
        form = form_of(
            n + m,
            data.draw(st.integers(1, 40), "columns"),
            a=a,
            needs_rows=a is None or data.draw(st.booleans(), "needs_rows"),
            seed=data.draw(st.integers(0, 99), "seed"),
        )
        form.w[:, data.draw(st.integers(0, form.w.shape[1] - 1), "zero column")] = 0
        form.w[data.draw(st.integers(0, n + m - 1), "zero row")] = 0
        needs_grad = data.draw(st.lists(st.booleans(), min_size=2 * len(dims), max_size=2 * len(dims)), "needs_grad")
        assume(route.takes(dims) and route.takes_form(form))
        call = self.call(
            n,
            m,
            dims,
            kernels,
            form,
            joint=terms[0],
            marginal=terms[1:],
            estimator=data.draw(st.sampled_from(["biased", "unbiased"]), "estimator"),
            needs_grad=[needed and a is not None for needed in needs_grad],
        )
        check_form(route.run(call), call, route.tolerance(1e-11))

    @pytest.mark.parametrize("form", ["sample weights", "groups", "classes", "signs"])
    def test_fp32_is_as_exact_as_careful_torch(self, route, form):
        """Error against fp64 at most twice that of the same mathematics in plain fp32 torch (and a few ulps of 1)."""
        n, m, dtype = 130, 65, torch.float32
        form = {
            "sample weights": sample_weights(n, m, dtype),
            "groups": one_hot(n + m, 6, dtype),
            "classes": class_weights(n, m, 31, dtype),
            "signs": form_of(n + m, 3, dtype=dtype),
        }[form]
        call = self.call(n, m, (70, 8), JAN, form, joint=1.0, marginal=(0.0, 0.0), dtype=dtype)
        truth, result = exact(call), route.run(call)
        sources, targets = ([x.detach().requires_grad_() for x in side] for side in (call.sources, call.targets))
        others = 1 - torch.eye(n + m)
        off_diagonal = others * plain_kernel(sources, targets, truth.statistics[3:].tolist(), JAN)
        w, wa = form.w, form.times_a(form.w)
        plain_loss = (wa * (off_diagonal @ w)).sum() + call.problem.product_at_zero * (wa * w).sum()
        plain_gradients = torch.autograd.grad(plain_loss, [*sources, *targets])
        assert abs(result.loss.item() - truth.loss.item()) <= 2 * abs(plain_loss.item() - truth.loss.item()) + 5e-7
        gradients = zip(result.gradients, plain_gradients, truth.gradients, strict=True)
        for gradient, plain_gradient, true_gradient in gradients:
            assert relative(gradient, true_gradient) <= 2 * relative(plain_gradient, true_gradient) + 2e-6
        if form.needs_rows:
            plain_error = relative(off_diagonal.detach() @ w, truth.rows)
            assert relative(result.rows, truth.rows) <= 2 * plain_error + 2e-6

    @pytest.mark.parametrize(("precision", "most"), [("tf32x3", 4e-6), ("tf32", 3e-3), ("bf16", 2e-2)])
    @pytest.mark.parametrize("columns", [2, 33])
    def test_products_have_the_precision_asked_for(self, route, precision, most, columns):
        form = form_of(104, columns, dtype=torch.float32)
        call = self.call(64, 40, (128, 8), JAN, form, dtype=torch.float32, precision=precision)
        check_form(route.run(call), call, most)

    @pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
    @pytest.mark.parametrize("columns", [1, 6, 33])
    def test_weights_are_never_rounded(self, route, precision, columns):
        """Equal rows have kernels of exactly 1, in every format: what remains is W's own sums in fp32."""
        n, m = 40, 33
        form = form_of(n + m, columns, dtype=torch.float32)
        sources, targets = [torch.full((n, 7), 0.5)], [torch.full((m, 7), 0.5)]
        call = route_call(
            sources,
            targets,
            [Gaussian(1.0, (1,))],
            joint=1.0,
            marginal=(0.0,),
            form=form,
            clamp=False,
            needs_grad=[False, False],
            precision=precision,
        )
        check_form(route.run(call), call, 1e-6)

    @pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str)
    def test_half_inputs_are_widened_first(self, route, dtypes):
        """Features of norm 1000, whose squares overflow fp16; probabilities beside them in fp32, as under autocast."""
        sides = []
        for n, seed, shift in ((40, 1, 0.0), (30, 2, 0.2)):
            features, softmax = layers(n, (64, 8), seed, shift)
            sides.append([(125 * features).to(dtypes[0]), softmax.to(dtypes[1])])
        call = route_call(*sides, JAN, form=class_weights(40, 30, 5, torch.float32))
        result = route.run(call)
        assert result.loss.dtype == torch.float32
        check_form(result, call, 4e-6)

    def test_weights_in_fp32_beside_features_in_fp64(self, route):
        call = self.call(33, 20, (7,), JAN[:1], form_of(53, 3, dtype=torch.float32))
        result = route.run(call)
        assert result.rows.dtype == route.dtype(torch.float64)
        check_form(result, call, route.tolerance(1e-12))

    def test_one_sided_and_absent_gradients(self, route):
        form = form_of(73, 3, dtype=torch.float32)
        call = self.call(40, 33, (20, 4), JAN, form, dtype=torch.float32)
        full = route.run(call)
        for needs_grad in ([False] * 4, [True, False, False, False], [False, False, False, True]):
            partial = route.run(call._replace(needs_grad=needs_grad))
            torch.testing.assert_close(partial.loss, full.loss, rtol=1e-5, atol=2e-7)
            torch.testing.assert_close(partial.statistics, full.statistics, rtol=1e-5, atol=2e-7)
            torch.testing.assert_close(partial.rows, full.rows, rtol=1e-5, atol=2e-7)
            for needed, expected, gradient in zip(needs_grad, full.gradients, partial.gradients, strict=True):
                if needed:
                    torch.testing.assert_close(gradient, expected)
                else:
                    assert gradient is None

    def test_equal_weights_are_those_of_the_domains(self, route):
        """The biased statistic as a form, beside the plain call."""
        n, m = 70, 33
        source = torch.arange(n + m) < n
        w = torch.stack([source.double() / n, (~source).double() / m]).T
        signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
        plain_call = route_call(layers(n, (20, 4), 1), layers(m, (20, 4), 2, 0.5), JAN)
        call = self.call(n, m, (20, 4), JAN, Form(w, signs, False))
        check(route.run(call), exact(plain_call), route.tolerance(1e-12))

    def test_a_row_of_weight_zero_has_no_gradient(self, route):
        form = sample_weights(40, 33, torch.float32)
        result = route.run(self.call(40, 33, (20, 4), JAN, form, dtype=torch.float32))
        weightless = (form.w == 0).all(1)
        for gradient, rows in zip(result.gradients, [weightless[:40]] * 2 + [weightless[40:]] * 2, strict=True):
            assert not gradient[rows].any()
            assert gradient[~rows].any(1).all()

    def test_weights_of_zero_give_zeros(self, route):
        form = Form(torch.zeros(73, 3), torch.eye(3).double(), True)
        result = route.run(self.call(40, 33, (20, 4), JAN, form, dtype=torch.float32))
        assert result.loss == 0
        assert not result.rows.any()
        assert not any(gradient.any() for gradient in result.gradients)

    def test_given_bandwidths(self, route):
        """Ones where the kernel has its own; a negative one gives NaN, in its layer's values and in the joint ones."""
        kernels = (Gaussian("median"), Gaussian(1.68, (1,)))
        call = self.call(20, 33, (20, 4), kernels, form_of(53, 3))
        for value in (37.0, 1e-3):
            given = call._replace(bandwidths=torch.tensor([value, 1.0], dtype=torch.float64))
            check_form(route.run(given), given, route.tolerance(1e-12))
        negative = route.run(call._replace(bandwidths=torch.tensor([-1.0, 1.0], dtype=torch.float64)))
        assert negative.loss.isnan()
        assert negative.rows.isnan().all()
        assert negative.statistics[:2].isnan().all()
        assert not negative.statistics[2].isnan()

    def test_bandwidth_zero_is_a_limit(self, route):
        """1 at distance 0 and 0 beyond, slope 0."""
        source, target = torch.zeros(10, 2).double(), torch.tensor([[1.0] * 2] * 3 + [[0.0] * 2] * 7).double()
        call = route_call(
            [source],
            [target],
            [Gaussian("median", (1,))],
            joint=1.0,
            marginal=(0.0,),
            bandwidths=torch.zeros(1, dtype=torch.float64),
            form=form_of(20, 3),
            clamp=False,
        )
        result = route.run(call)
        at_origin = torch.cat([torch.ones(10), torch.zeros(3), torch.ones(7)]).double()
        kernel = at_origin[:, None] * at_origin + (1 - at_origin)[:, None] * (1 - at_origin)
        w = call.form.w
        torch.testing.assert_close(
            result.rows.double(), (kernel - torch.eye(20).double()) @ w, rtol=0, atol=route.tolerance(1e-14)
        )
        torch.testing.assert_close(
            result.loss.double(), (w.T @ kernel @ w * call.form.a).sum(), rtol=0, atol=route.tolerance(1e-14)
        )
        assert not any(gradient.any() for gradient in result.gradients)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
    def test_nan_and_infinity_in_features_are_not_hidden(self, route, bad, precision):
        form = sample_weights(40, 33, torch.float32)
        call = self.call(40, 33, (7,), JAN[:1], form, dtype=torch.float32, precision=precision)
        with torch.no_grad():
            call.sources[0][3, 2] = bad
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, where Triton interprets
            result = route.run(call)
        assert result.loss.isnan()
        assert result.rows.isnan().all()
        assert result.gradients[0].isnan().any()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("columns", [2, 33])
    def test_nan_and_infinity_in_weights_are_not_hidden(self, route, bad, columns):
        form = form_of(73, columns, dtype=torch.float32)
        form.w[3, 1] = bad
        call = self.call(40, 33, (7,), JAN[:1], form, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, where Triton interprets
            result = route.run(call)
        assert not result.loss.isfinite()
        assert not result.gradients[0][3].isfinite().any()
        others = torch.arange(73) != 3
        assert not result.rows[others, 1].isfinite().any()
        assert result.rows[others, 0].isfinite().all()

    def test_a_biased_statistic_is_never_negative(self, route):
        x = layers(40, (20, 4), 1, dtype=torch.float32)
        form = Form(torch.cat([torch.eye(40), -torch.eye(40)]) / 40, torch.ones(40).double(), False)
        result = route.run(route_call(x, x, JAN, form=form))
        assert (result.statistics[:3] >= 0).all()
        assert 0 <= result.loss.item() <= 1e-6

    def test_results_are_the_same_bits_each_time(self, route):
        call = self.call(130, 65, (20, 8), JAN, form_of(195, 6, dtype=torch.float32), dtype=torch.float32)
        first, again = route.run(call), route.run(call)
        for one, other in zip([*first[:2], *first[2], first[3]], [*again[:2], *again[2], again[3]], strict=True):
            assert torch.equal(one, other)
