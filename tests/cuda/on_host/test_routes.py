"""Each route of the CUDA backend against the dense reference in fp64, with its kernels on the CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd import Gaussian, extension
from fastmmd.backends import cuda
from fastmmd.backends.cuda import fused, gemm, launch_rules, small
from fastmmd.backends.cuda.architecture import HOST_SHARED_MEMORY
from tests.helpers import JAN, layers, relative
from tests.routes import (
    MIXED,
    FormTests,
    PoisonedMemory,
    Route,
    RouteTests,
    check,
    check_form,
    exact,
    form_of,
    route_call,
)

REPORTS = Path(__file__).parents[2] / "csrc" / "resources"


class FusedRoute(Route):
    def run(self, call):
        """In the most precise format that the route has where the call asks for a more precise one."""
        return super().run(call._replace(precision="tf32x3") if call.precision == "ieee" else call)

    def config_for(self, call):
        """With one stage where two are more shared memory than a thread block has."""
        format = launch_rules.product_format(call.precision, call)
        fits = fused.fits(call.dims, format, self.config, HOST_SHARED_MEMORY)
        return self.config if fits else replace(self.config, stages=1)


def fused_route(thread_blocks, stages, name="fused"):
    config = fused.Config(thread_blocks=thread_blocks, stages=stages)
    return FusedRoute(name=name, backend=cuda, config=config, float64=False, max_layers=2, max_features=288)


# Tiles, parts and chunks that are ragged and several at the sizes of the tests.
SMALL_32 = Route(name="small_32", backend=cuda, config=small.Config(part_features=64, chunk=32))
SMALL_64 = Route(name="small_64", backend=cuda, config=small.Config(part_features=100, chunk=64))
FUSED = fused_route(thread_blocks=1, stages=1)
FUSED_SPLIT = fused_route(thread_blocks=9, stages=2, name="fused_split")
GEMM = Route(name="gemm", backend=cuda, config=gemm.Config(workspace_bytes=4 * 2 * 64 * 64))
ROUTES = (SMALL_32, SMALL_64, FUSED, FUSED_SPLIT, GEMM)
ROUTES_OF_FORMS = (SMALL_32, SMALL_64)

each_route = pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])


class TestRoutes(RouteTests):
    @pytest.fixture(params=ROUTES, ids=[route.name for route in ROUTES])
    def route(self, request):
        return request.param


class TestForms(FormTests):
    @pytest.fixture(params=ROUTES_OF_FORMS, ids=[route.name for route in ROUTES_OF_FORMS])
    def route(self, request):
        return request.param

    @pytest.mark.parametrize("route", ROUTES_OF_FORMS, ids=[route.name for route in ROUTES_OF_FORMS])
    @pytest.mark.parametrize("columns", [70, 200])
    def test_chunks_of_features_share_the_columns(self, route, columns):
        """Rows alone have a thread block for every 32 of them, gradients no more than they have chunks of features."""
        call = self.call(40, 33, (20, 150), JAN, form_of(73, columns, a="diagonal"))
        check_form(route.run(call), call, 1e-12)
        rows = call._replace(form=call.form._replace(a=None), needs_grad=[False] * 4)
        check_form(route.run(rows), rows, 1e-12)

    @pytest.mark.parametrize("route", [FUSED, GEMM], ids=["fused", "gemm"])
    def test_routes_of_many_rows_refuse_them(self, route):
        call = self.call(40, 33, (20,), JAN[:1], form_of(73, 2), precision="tf32")
        with pytest.raises(ValueError, match=r"config: a call with weights of pairs takes small.Config, got .*Config"):
            route.run(call)


class TestFormats(PoisonedMemory):
    # Gradient errors: the least that the format allows (a smaller one would mean that it was not used) and the most.
    @pytest.mark.parametrize("route", [FUSED, FUSED_SPLIT], ids=["fused", "fused_split"])
    @pytest.mark.parametrize(
        ("format", "least", "most"),
        [("tf32x3", 0, 2e-6), ("tf32", 1e-4, 3e-3), ("bf16", 1e-3, 2e-2)],
    )
    @pytest.mark.parametrize("shift", [0.3, 100.0])
    def test_products_have_the_precision_asked_for(self, route, format, least, most, shift):
        """The mean of the features does not matter: rows are centred before they are rounded."""
        sources = layers(64, (128, 8), 1, shift, torch.float32)
        targets = layers(40, (128, 8), 2, shift + 0.2, torch.float32)
        call = route_call(sources, targets, JAN, precision=format)
        truth, result = exact(call), route.run(call)
        assert result.loss.item() == pytest.approx(truth.loss.item(), abs=0.2 * most * truth.loss.item() + 3e-7)
        assert least <= relative(result.gradients[0], truth.gradients[0]) <= most
        assert least <= relative(result.gradients[2], truth.gradients[2]) <= most

    @pytest.mark.parametrize("format", fused.FORMATS)
    @settings(max_examples=6)
    @given(data=st.data())
    def test_fused_of_any_size(self, format, data):
        n, m = data.draw(st.integers(1, 200), "n"), data.draw(st.integers(1, 200), "m")
        dims = data.draw(st.sampled_from([(1,), (16,), (40, 5), (128,), (129, 3), (256, 31), (300,)]), "dims")
        route = replace(
            fused_route(data.draw(st.integers(1, 20), "thread_blocks"), data.draw(st.sampled_from([1, 2]), "stages")),
            max_features=None,
        )
        needs_grad = data.draw(st.lists(st.booleans(), min_size=2 * len(dims), max_size=2 * len(dims)), "needs_grad")
        sources, targets = layers(n, dims, 1, dtype=torch.float32), layers(m, dims, 2, 0.5, torch.float32)
        call = route_call(sources, targets, JAN[: len(dims)], precision=format, needs_grad=needs_grad)
        tolerance = {"tf32x3": 1e-5, "tf32": 5e-3, "bf16": 4e-2}[format]
        check(route.run(call), exact(call), tolerance)

    def test_ieee_is_refused(self):
        sources, targets = layers(5, (4,), 1, dtype=torch.float32), layers(5, (4,), 2, dtype=torch.float32)
        call = route_call(sources, targets, JAN[:1], precision="ieee")
        with pytest.raises(ValueError, match="route 'fused' multiplies in tf32x3, tf32, bf16, got precision 'ieee'"):
            cuda.run(call, FUSED.config)

    @pytest.mark.parametrize("format", ["tf32", "bf16"])
    def test_gemm_rounds_to_what_the_library_multiplies(self, format):
        """On a CPU the library's products are fp32, so only the rounding of rows shows."""
        sources, targets = layers(64, (128,), 1, dtype=torch.float32), layers(40, (128,), 2, 0.2, torch.float32)
        call = route_call(sources, targets, JAN[:1], precision=format)
        assert 5e-5 <= relative(GEMM.run(call).gradients[0], exact(call).gradients[0]) <= 3e-3

    @pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32, torch.bfloat16)], ids=str)
    def test_every_layer_has_its_own_dtype(self, dtypes):
        sources = [x.to(dtype) for x, dtype in zip(layers(40, (70, 8, 20), 1), dtypes, strict=True)]
        targets = [x.to(dtype) for x, dtype in zip(layers(33, (70, 8, 20), 2, 0.2), dtypes, strict=True)]
        call = route_call(sources, targets, MIXED)
        check(SMALL_32.run(call), exact(call), 5e-6)


class TestValues(PoisonedMemory):
    @each_route
    @pytest.mark.parametrize("size", [1e3, 1e6])
    def test_a_far_row_leaves_the_others(self, route, size):
        """With a bandwidth that is no mean: rows are taken around where most of them are."""
        sources, targets = layers(70, (9,), 1, dtype=torch.float32), layers(40, (9,), 2, 0.3, torch.float32)
        with torch.no_grad():
            sources[0][33] = size
        call = route_call(sources, targets, (Gaussian(9.0),))
        truth, result = exact(call), route.run(call)
        assert result.loss.item() == pytest.approx(truth.loss.item(), rel=1e-5)
        near = torch.arange(70) != 33
        assert relative(result.gradients[0][near], truth.gradients[0][near]) < 1e-5

    @each_route
    def test_results_are_the_same_bits_each_time(self, route):
        sources, targets = layers(130, (70, 8), 1, dtype=torch.float32), layers(65, (70, 8), 2, 0.1, torch.float32)
        call = route_call(sources, targets, JAN)
        first, again = route.run(call), route.run(call)
        assert torch.equal(first.loss, again.loss)
        assert torch.equal(first.statistics, again.statistics)
        assert all(torch.equal(a, b) for a, b in zip(first.gradients, again.gradients, strict=True))

    @pytest.mark.parametrize("route", [SMALL_32, SMALL_64, GEMM], ids=["small_32", "small_64", "gemm"])
    def test_few_rows_of_many_features(self, route):
        call = route_call(layers(6, (5000,), 1), layers(5, (5000,), 2, 0.1), JAN[:1])
        check(route.run(call), exact(call), 1e-12)


# What fused and gemm have kernels for, and mixtures that are just beside: csrc/cuda/plan.h, usual_chain.
ONE = Gaussian(20.0, (1,), (0.7,))
MIXTURES = {
    "5": JAN[:1],
    "5 and 1": JAN,
    "1": (ONE,),
    "5 and 1 of unequal weights": (Gaussian(weights=(2, 0.5, 1, 0.1, 3)), ONE),
    "a weight far above the broadest Gaussian's": (Gaussian(weights=(1, 1, 1, 1, 1e-9)), ONE),
    "a broadest Gaussian of weight 0": (Gaussian(weights=(1, 1, 1, 1, 0)),),
    "1 and 5": (ONE, Gaussian()),
    "4": (Gaussian(multipliers=(0.5, 1, 2, 4)),),
    "5 that do not double": (Gaussian(multipliers=(0.25, 0.5, 1, 2, 3)),),
    "three layers": (*JAN, ONE),
}


@pytest.mark.parametrize("route", [FUSED, FUSED_SPLIT, GEMM], ids=["fused", "fused_split", "gemm"])
@pytest.mark.parametrize("kernels", MIXTURES.values(), ids=MIXTURES)
class TestMixtures(PoisonedMemory):
    """Rows that fill tiles, which need no masks, and others; tiles on the diagonal, and panels of several."""

    def call(self, kernels, **options):
        dims = (20, 4, 7)[: len(kernels)]
        sources, targets = layers(140, dims, 1, dtype=torch.float32), layers(64, dims, 2, 0.3, torch.float32)
        return route_call(sources, targets, kernels, **options)

    def test_values(self, route, kernels):
        call = self.call(kernels)
        check(route.run(call), exact(call), 1e-5)

    def test_the_loss_alone(self, route, kernels):
        call = self.call(kernels, needs_grad=[False] * (2 * len(kernels)))
        check(route.run(call), exact(call), 1e-5)

    @pytest.mark.parametrize("row", [5, 139])
    def test_a_nan_row_makes_its_gradient_nan(self, route, kernels, row):
        call = self.call(kernels)
        with torch.no_grad():
            call.sources[0][row, 1] = torch.nan
        result = route.run(call)
        assert result.loss.isnan()
        assert result.gradients[0][row].isnan().any()

    def test_a_negative_bandwidth_gives_nan(self, route, kernels):
        kernels = tuple([Gaussian("median", kernel.multipliers, kernel.weights) for kernel in kernels])
        result = route.run(self.call(kernels, bandwidths=torch.full((len(kernels),), -1.0, dtype=torch.float64)))
        assert result.loss.isnan()
        assert all(gradient.isnan().all() for gradient in result.gradients)


class TestLimits(PoisonedMemory):
    def test_more_gaussians_than_a_launch_can_carry_are_refused(self):
        many = (Gaussian(multipliers=tuple([1 + 0.1 * q for q in range(60)])),) * 3
        call = route_call(layers(5, (4, 4, 4), 1), layers(5, (4, 4, 4), 2), many)
        with pytest.raises(ValueError, match="128 Gaussians"):
            SMALL_32.run(call)

    def test_rows_of_inner_products_are_aligned_for_the_library(self, monkeypatch):
        """Matrices with a leading dimension that is no multiple of 16 bytes are multiplied by slow kernels."""
        strides = []
        multiply = torch.mm

        def mm(a, b, out):
            strides.append(out.stride())
            return multiply(a, b, out=out)

        monkeypatch.setattr(torch, "mm", mm)
        sources, targets = layers(37, (16, 8), 1, dtype=torch.float32), layers(64, (16, 8), 2, 0.2, torch.float32)
        call = route_call(sources, targets, JAN)
        check(GEMM.run(call), exact(call), 5e-6)
        assert len(strides) == 2 * 3  # layers, pairs of panels
        assert all(row % 8 == 0 and column == 1 for row, column in strides), strides

    @pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
    @pytest.mark.parametrize("format", fused.FORMATS)
    @pytest.mark.parametrize(("dims", "mixtures"), [((128,), "1, 5"), ((64, 64), "2, 5"), ((64, 64), "2, 0")])
    def test_registers_are_held_down_only_where_two_thread_blocks_fit(self, path, format, dims, mixtures):
        groups = 2 if format == "bf16" else 5
        kernel = json.loads(path.read_text())["sm_90"].get(f"fused: fused_loss<{format}, {mixtures}, {groups}>")
        if kernel is None:
            pytest.skip("this route has no such values")
        stages = launch_rules.choose(8192, dims, format, HOST_SHARED_MEMORY).config.stages
        module, width = extension.module, sum(fused.padded_widths(dims))
        launch = module.CudaFusedLaunch(splits=1, stages=stages)
        shared = module.cuda_fused_shared_bytes(format, width, len(dims), True, launch)
        two_fit = 2 * (shared + (1 << 10)) <= 228 << 10  # the system takes 1 KiB for each
        assert (kernel["registers"] <= 128) == two_fit
