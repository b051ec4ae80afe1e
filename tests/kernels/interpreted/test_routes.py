"""Each route of the Triton backend against the dense reference in fp64, in Triton's interpreter."""

import pytest
import torch

from fastmmd import Gaussian
from fastmmd.backends import triton
from fastmmd.kernels import fused, gemm, small
from fastmmd.kernels.launch import recording
from tests.helpers import JAN, layers, relative
from tests.routes import FormTests, PoisonedMemory, Route, RouteTests, check, exact, route_call

# Tiles of sizes that are ragged and several at the sizes of the tests.
SMALL = Route(
    name="small",
    backend=triton,
    config=small.Config(
        tile=32, features=32, chunk=64, part_features=64, max_parts=3, warps=8, stages=2, overlap=False
    ),
)
FUSED = Route(
    name="fused",
    backend=triton,
    config=fused.Config(tile=64, columns=32, warps=8, stages=2),
    max_columns=fused.MOST_COLUMNS,
)
GEMM = Route(
    name="gemm",
    backend=triton,
    config=gemm.Config(rows=32, columns=64, warps=4, workspace_bytes=4 * 2 * 64 * 64),
)
ROUTES = (SMALL, FUSED, GEMM)
ROUTES_OF_FORMS = (FUSED, GEMM)  # small takes plain calls alone


class TestRoutes(RouteTests):
    @pytest.fixture(params=ROUTES, ids=[route.name for route in ROUTES])
    def route(self, request):
        return request.param


class TestForms(FormTests):
    @pytest.fixture(params=ROUTES_OF_FORMS, ids=[route.name for route in ROUTES_OF_FORMS])
    def route(self, request):
        return request.param


class TestPrecision(PoisonedMemory):
    # Gradient errors: the least that the format allows (a smaller one would mean that it was not used) and the most.
    # The library has no tf32x3.
    @pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])
    @pytest.mark.parametrize(
        ("precision", "least", "most"),
        [("ieee", 0, 1e-6), ("tf32x3", 0, 3e-6), ("tf32", 5e-5, 3e-3), ("bf16", 1e-3, 2e-2)],
    )
    @pytest.mark.parametrize("shift", [0.3, 100.0])
    def test_products_have_the_precision_asked_for(self, route, precision, least, most, shift):
        """The mean of the features does not matter: rows are centred before they are rounded."""
        sources = layers(64, (128, 8), 1, shift, torch.float32)
        targets = layers(40, (128, 8), 2, shift + 0.2, torch.float32)
        call = route_call(sources, targets, JAN, precision=precision)
        truth, result = exact(call), route.run(call)
        assert result.loss.item() == pytest.approx(truth.loss.item(), abs=0.2 * most * truth.loss.item() + 3e-7)
        assert least <= relative(result.gradients[0], truth.gradients[0]) <= most
        assert least <= relative(result.gradients[2], truth.gradients[2]) <= most

    @pytest.mark.parametrize("route", [FUSED, GEMM], ids=["fused", "gemm"])
    @pytest.mark.parametrize("precision", ["tf32", "bf16"])
    def test_rounded_gradients_still_add_up_to_zero(self, route, precision):
        """A kernel does not see a shift of all rows. Row sums of coefficients that were not rounded like the others
        would leave a thousandth."""
        sources, targets = layers(130, (40, 8), 1, dtype=torch.float32), layers(70, (40, 8), 2, 0.5, torch.float32)
        gradients = route.run(route_call(sources, targets, JAN, precision=precision)).gradients
        for source, target in zip(gradients[:2], gradients[2:], strict=True):
            pooled = torch.cat([source, target])
            assert pooled.sum(0).abs().max() < 1e-5 * pooled.abs().sum(0).max()

    @pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])
    def test_the_nan_of_a_gpu_survives_rounding(self, route):
        """Every bit but the sign: adding half a unit to that pattern would carry into the sign and leave -0."""
        nan = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
        source, target = torch.randn(20, 3), torch.randn(20, 3)
        source[4, 1] = nan
        assert route.run(route_call([source], [target], JAN[:1], precision="tf32")).loss.isnan()


class TestSizes(PoisonedMemory):
    def test_clusters_a_million_bandwidths_apart(self):
        """Tiles are centred by themselves: inside a cluster kernels are as always, between them 0."""
        sources, targets = layers(20, (4,), 1, dtype=torch.float32), layers(33, (4,), 2, 1e6, torch.float32)
        call = route_call(sources, targets, [Gaussian(1.0, (1,))])
        check(SMALL.run(call), exact(call), 1e-5)

    @pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])
    @pytest.mark.parametrize("size", [1e-20, 1e-30])
    def test_features_whose_squares_vanish_give_numbers(self, route, size):
        source, target = (size * layers(n, (5,), n, n / 33, torch.float32)[0].detach() for n in (33, 20))
        result = route.run(route_call([source], [target], [Gaussian()], joint=1.0, marginal=(0.0,)))
        assert result.loss.isfinite()
        assert result.gradients[0].isfinite().all()

    @pytest.mark.parametrize("route", [SMALL, GEMM], ids=["small", "gemm"])
    def test_wide_layers(self, route):
        call = route_call(layers(6, (5000,), 1), layers(5, (5000,), 2, 0.1), (Gaussian(),))
        check(route.run(call), exact(call), 1e-12)


class TestLaunches:
    @pytest.mark.parametrize("gradient", [True, False])
    def test_small_problems_take_two(self, gradient):
        sources, targets = layers(36, (256, 31), 1, dtype=torch.float32), layers(36, (256, 31), 2, dtype=torch.float32)
        with recording() as launches:
            SMALL.run(route_call(sources, targets, JAN, needs_grad=[gradient] * 4))
        assert len(launches) == 2

    def test_a_ramp_or_a_smaller_batch_compiles_nothing_anew(self):
        """What changes from step to step reaches the kernels as run-time numbers."""

        def constants(n, joint, bandwidth):
            kernels = (Gaussian(), Gaussian(bandwidth, (1,)), Gaussian("mean_all"))
            x = layers(n, (20, 4, 6), 1, dtype=torch.float32)
            call = route_call(x, x, kernels, joint=joint)
            with recording() as launches:
                SMALL.run(call)
                GEMM.run(call)
            return [repr(launch.options) for launch in launches]

        assert constants(36, 0.1, 1.68) == constants(35, 0.7, 2.5)
