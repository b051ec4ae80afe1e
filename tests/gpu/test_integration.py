"""The losses among torch's and fastmmd's other parts on a CUDA device: what "auto" takes, torch.compile, autocast, and
the warning of unfit bandwidths."""

from __future__ import annotations

import pytest
import torch

import fastmmd
from fastmmd import Gaussian, dispatch
from tests.gpu.helpers import BACKENDS, CUDA_ABSENT, NEEDS_GPU, inputs, run, same_bits
from tests.helpers import JAN, call_of

pytestmark = NEEDS_GPU


def test_auto_takes_cuda_for_few_rows_and_triton_for_many():
    few, many = (call_of(*inputs(n, n, (20,)), JAN[:1]) for n in (64, 5000))
    assert dispatch.choose("auto", few) == ("triton" if CUDA_ABSENT else "cuda")
    assert dispatch.choose("auto", many) == "triton"
    assert fastmmd.build_info()["backends"]["triton"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_step_is_one_graph_and_gives_the_eager_values(backend):
    sources, targets = inputs(64, 40)

    def step(sources, targets):
        return 2 * fastmmd.jmmd(sources, targets, backend=backend, precision="ieee")

    leaves = [*sources, *targets]
    plain = step(sources, targets)
    compiled = torch.compile(step, fullgraph=True)(sources, targets)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(torch.autograd.grad(compiled, leaves), torch.autograd.grad(plain, leaves))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [64, 300])
def test_autocast_changes_no_bit(backend, n):
    sources, targets = inputs(n, 40)
    expected = run(sources, targets, backend=backend, precision="ieee")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        results = run(sources, targets, backend=backend, precision="ieee")
    assert results[0].dtype == torch.float32
    assert same_bits(results, expected)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_bandwidth_far_below_the_data_is_warned_of(backend):
    sources, targets = inputs(300, 300, (20,))
    with torch.no_grad():
        for x in (*sources, *targets):
            x[::2] += 1e4

    def several_calls() -> None:
        for _ in range(3):
            run(sources, targets, (Gaussian(1.0),), backend=backend)
            torch.cuda.synchronize()

    with pytest.warns(UserWarning, match="far below the data's size"):
        several_calls()
