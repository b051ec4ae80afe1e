"""Each route of the Triton backend against the dense reference in fp64, in Triton's interpreter."""

import pytest
import torch

from fastmmd import Gaussian
from fastmmd.kernels import blocks, plan, small, table, tiles
from fastmmd.kernels.launch import recording
from tests.helpers import JAN, layers, relative
from tests.routes import *  # noqa: F403 the tests of every route
from tests.routes import Route, check, exact, problem_of

# Tiles of sizes that are ragged and several at the sizes of the tests.
CONFIGS = {
    "small": small.Config(tile=32, features=32, chunk=64, part_features=64, max_parts=3, warps=8, stages=2),
    "tiles": tiles.Config(tile=64, columns=32, warps=8, stages=2),
    "blocks": blocks.Config(tile=32, warps=4, workspace_bytes=4 * 2 * 64 * 64),
}


def route_of(name):
    def compute(problem, sources, targets, bandwidths, needs_grad, dtype, format):
        config = CONFIGS[name]
        return table.ROUTES[type(config)](
            plan.make_plan(problem, dtype),
            *(sources, targets, bandwidths, needs_grad, problem.clamp, dtype, format, config),
        )

    return Route(name, compute)


def run(name, *arguments, **options):
    return route_of(name).run(*arguments, **options)


@pytest.fixture(params=list(CONFIGS))
def route(request):
    return route_of(request.param)


# Gradient errors: the least that the format allows (a smaller one would mean that it was not used) and the most.
@pytest.mark.parametrize("route", ["small", "tiles"])
@pytest.mark.parametrize(
    ("format", "least", "most"), [("ieee", 0, 1e-6), ("tf32x3", 0, 3e-6), ("tf32", 1e-4, 3e-3), ("bf16", 1e-3, 2e-2)]
)
@pytest.mark.parametrize("shift", [0.3, 100.0])
def test_formats(route, format, least, most, shift):
    """The mean of the features does not matter: rows are centred before they are rounded."""
    sources = layers(64, (128, 8), 1, shift, torch.float32)
    targets = layers(40, (128, 8), 2, shift + 0.2, torch.float32)
    problem = problem_of(64, 40, JAN)
    truth = exact(problem, sources, targets)
    loss, _, gradients = run(route, problem, sources, targets, format=format)
    assert loss.item() == pytest.approx(truth[0].item(), abs=0.2 * most * truth[0].item() + 3e-7)
    assert least <= relative(gradients[0], truth[2][0]) <= most
    assert least <= relative(gradients[2], truth[2][2]) <= most


def test_blocks_round_to_what_the_library_multiplies():
    """On a CPU the library's products are fp32, so only the rounding of rows shows."""
    sources, targets = layers(64, (128,), 1, dtype=torch.float32), layers(40, (128,), 2, 0.2, torch.float32)
    problem = problem_of(64, 40, JAN[:1])
    truth = exact(problem, sources, targets)
    for format, least, most in (("tf32x3", 0, 1e-6), ("tf32", 5e-5, 3e-3), ("bf16", 5e-5, 3e-3)):
        assert least <= relative(run("blocks", problem, sources, targets, format=format)[2][0], truth[2][0]) <= most


def test_the_nan_of_a_gpu_survives_rounding():
    """Every bit but the sign: adding half a unit to that pattern would carry into the sign and leave -0."""
    nan = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    source, target = torch.randn(20, 3), torch.randn(20, 3)
    source[4, 1] = nan
    for route in CONFIGS:
        assert run(route, problem_of(20, 20, JAN[:1]), [source], [target], format="tf32")[0].isnan()


def test_wide_layers():
    sources, targets = layers(6, (5000,), 1), layers(5, (5000,), 2, 0.1)
    problem = problem_of(6, 5, (Gaussian(),))
    for route in ("small", "blocks"):
        check(run(route, problem, sources, targets, dtype=torch.float64), exact(problem, sources, targets), 1e-12)


@pytest.mark.parametrize("gradient", [True, False])
def test_small_problems_take_two_launches(gradient):
    sources, targets = layers(36, (256, 31), 1, dtype=torch.float32), layers(36, (256, 31), 2, dtype=torch.float32)
    with recording() as launches:
        run("small", problem_of(36, 36, JAN), sources, targets, [gradient] * 4)
    assert len(launches) == 2


def test_a_ramp_or_a_smaller_batch_compiles_nothing_anew():
    """What changes from step to step reaches the kernels as run-time numbers."""

    def constants(n, joint, bandwidth):
        kernels = (Gaussian(), Gaussian(bandwidth, (1,)), Gaussian("mean_all"))
        with recording() as launches:
            x = layers(n, (20, 4, 6), 1, dtype=torch.float32)
            run("small", problem_of(n, n, kernels, joint), x, x)
            run("blocks", problem_of(n, n, kernels, joint), x, x)
        return [repr(launch.options) for launch in launches]

    assert constants(36, 0.1, 1.68) == constants(35, 0.7, 2.5)
