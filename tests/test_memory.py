"""Memory beside inputs and gradients: O(N d) and a bounded workspace, never N x N."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fastmmd
from fastmmd import Gaussian
from fastmmd.backends import torch_tiles
from tests.form_calls import FORM_CALLS
from tests.helpers import FAST, JAN

MIB = 2**20


def peak_bytes(call) -> int:
    """The most that was allocated at once by torch during `call`, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_the_measure_sees_allocations():
    assert 80 * MIB <= peak_bytes(lambda: torch.ones(10 * MIB) + torch.ones(1)) < 81 * MIB


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dims", [(16,), (16, 4)])
def test_twenty_thousand_rows_need_no_gram_matrix(backend, dims):
    """N = 20,000: one Gram matrix would be 1,526 MiB."""
    sources = [torch.randn(10_000, d, requires_grad=True) for d in dims]
    targets = [torch.randn(10_000, d, requires_grad=True) for d in dims]
    allowed = 4 * sum(x.nbytes for x in (*sources, *targets))  # gradients, centred copies and their temporaries

    def step():
        loss = fastmmd.jmmd(sources, targets, JAN[: len(dims)], backend=backend)
        torch.autograd.grad(loss, [*sources, *targets])

    assert peak_bytes(step) < allowed + 48 * MIB


def test_median_of_twenty_thousand_rows_needs_no_distance_matrix():
    source, target = torch.randn(10_000, 8), torch.randn(10_000, 8)
    assert peak_bytes(lambda: fastmmd.bandwidth.median_distance(source, target)) < 64 * MIB


def test_linear_estimators_of_a_million_rows():
    source, target = torch.randn(500_000, 4), torch.randn(500_000, 4)
    for estimator in ("linear", "circular"):
        kernel = Gaussian(multipliers=(0.5, 1, 2))

        def call(estimator=estimator, kernel=kernel):
            return fastmmd.mmd(source, target, kernel, estimator=estimator)

        assert peak_bytes(call) < 30 * source.nbytes
        assert abs(call().item()) < 0.02


@pytest.mark.parametrize("backend", FAST)
def test_no_gradient_needs_no_gradient_memory(backend):
    source, target = torch.randn(400, 2000), torch.randn(400, 2000)
    with_gradient = peak_bytes(lambda: fastmmd.mmd(source.requires_grad_(), target.requires_grad_(), backend=backend))
    with torch.no_grad():
        without = peak_bytes(lambda: fastmmd.mmd(source, target, backend=backend))
    assert without <= with_gradient - source.nbytes - target.nbytes


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["sample weights", "pairs of groups", "forms"])
def test_weights_of_pairs_need_no_matrix_of_pairs(backend, name):
    """N = 4,000: one such matrix would be 61 MiB."""
    call = FORM_CALLS[name]
    inputs = call.inputs(4_000, 4, dtype=torch.float32)

    def step():
        torch.autograd.grad(call.loss(*inputs, backend=backend), inputs)

    assert peak_bytes(step) < 40 * MIB


@pytest.mark.parametrize("backend", FAST)
def test_many_forms_need_a_few_times_the_memory_of_their_weights(backend, monkeypatch):
    """K W without and with the diagonal, and its products with W, once in fp32 and once in fp64."""
    monkeypatch.setattr(torch_tiles.Config, "workspace_bytes", MIB)
    x, w = torch.randn(1_500, 8), torch.randn(1_500, 1_000)

    def forms():
        return fastmmd.kernel_forms([x], [Gaussian()], w, backend=backend)

    assert peak_bytes(forms) < 6.5 * w.nbytes
