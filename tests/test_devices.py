"""What other devices would not forgive, shown on a CPU: waiting for them, and fp64 where there is none."""

from __future__ import annotations

import pytest
import torch

import fastmmd
from fastmmd import Gaussian, autograd, conditioning, dispatch, extension, linear_time, local_mmd, median, sample_weights
from fastmmd.backends import reference
from fastmmd.bandwidth import given_bandwidths
from tests.device_modes import Waits, no_float64, nothing_waits
from tests.form_calls import FORM_CALLS
from tests.helpers import call_of, layers

RULES = {
    "mean": Gaussian(),
    "mean_all": Gaussian("mean_all"),
    "undetached": Gaussian(detach_bandwidth=False),
    "median": Gaussian("median"),
    "number": Gaussian(2.0, (1, 3)),
}


def on_cuda(n, dim, dtype=torch.float32):
    return torch.empty(n, dim, dtype=dtype, device="cuda", requires_grad=True)


def learned(device):
    return Gaussian(torch.empty((), device=device, requires_grad=True))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x[torch.zeros((), dtype=torch.int64, device="cuda")],
        lambda x: torch.as_tensor(2.0, device="cuda") * x,
        lambda x: torch.tensor([1.0, 2.0], device="cuda"),
        lambda x: torch.ones(3).to("cuda"),
        lambda x: x.cpu(),
        lambda x: torch.where(x > 0, x, torch.zeros(())),
        lambda x: 1 if x.sum() > 0 else 0,
    ],
)
def test_what_waits_is_seen(waiting):
    with nothing_waits(), pytest.raises(Waits):
        waiting(on_cuda(4, 3).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1 << 21, 3000], ids=["one block", "streaming"])
@pytest.mark.parametrize("products", [True, False])
def test_the_median_does_not_wait(monkeypatch, dtype, block, products):
    monkeypatch.setattr(median, "TILE_ELEMENTS", block)
    monkeypatch.setattr(median, "accumulation_dtype", lambda _: torch.float64 if products else torch.float32)
    with nothing_waits():
        middle = median.streaming_median(on_cuda(70, 9, dtype).detach(), on_cuda(61, 9, dtype).detach())
    assert middle.device.type == "cuda"
    assert middle.shape == ()


@pytest.mark.parametrize("rule", [*RULES, "tensor"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear", "circular", "dense"])
@pytest.mark.parametrize("n", [20, 600])
def test_no_loss_waits(estimator, rule, n):
    """Below the checks, from where a tensor mode would go through the custom op: what runs eagerly on a GPU. (Without
    one torch runs no backward there.)"""
    with nothing_waits():
        sources, targets = ([on_cuda(n, 9, torch.float16), on_cuda(n, 4)] for _ in range(2))
        kernels = (RULES[rule] if rule in RULES else learned("cuda"), Gaussian(1.68, (1,)))
        call = call_of(
            sources,
            targets,
            kernels,
            joint=0.5,
            marginal=(0.1, 0.0),
            estimator="biased" if estimator == "biased" else "unbiased",
            bandwidths=given_bandwidths(kernels, sources, targets),
        )
        if estimator in ("linear", "circular"):
            loss, statistics, _ = linear_time.estimate(call, estimator)
        elif estimator == "dense":
            loss, statistics, _ = reference.differentiable(call)
        else:
            loss, statistics, _ = autograd.evaluate(call, "torch")
            autograd.scale(torch.ones_like(loss), sources, [x.dtype for x in sources])
    assert loss.requires_grad
    assert loss.device.type == statistics.device.type == "cuda"


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("given", [True, False])
def test_measuring_a_condition_does_not_wait(monkeypatch, backend, given):
    copies = []
    with nothing_waits(), monkeypatch.context() as inside:  # undone before what it replaces is undone
        inside.setattr(conditioning, "HostCopy", copies.append)
        bandwidths = torch.ones(1, dtype=torch.float64, device="cuda") if given else None
        call = call_of([on_cuda(40, 9)], [on_cuda(40, 9)], [Gaussian(2.0)], bandwidths=bandwidths)
        conditioning.Watch(call.problem.layers).look(call, backend)
    assert copies[0].device.type == "cuda"


# Devices without fp64 ------------------------------------------------------------------------------------------------


@pytest.fixture
def mps(monkeypatch):
    """As on a device with no backend of its own and no fp64."""
    monkeypatch.setattr(dispatch, "AUTOMATIC", ())
    monkeypatch.setattr(extension, "module", None)
    with no_float64():
        yield


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("rule", [*RULES, "tensor"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear", "circular"])
@pytest.mark.parametrize("backend", ["torch", "auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_needs_float64(backend, estimator, rule, dtype):
    bandwidth = torch.tensor(2.0, requires_grad=True)
    kernel = RULES[rule] if rule in RULES else Gaussian(bandwidth, (1, 3))
    sources, targets = ([torch.randn(20, dim, dtype=dtype, requires_grad=True) for dim in (9, 4)] for _ in range(2))
    result = fastmmd.discrepancy(
        sources, targets, (kernel, Gaussian(1.68, (1,))), estimator=estimator, backend=backend, marginal=0.1
    )
    assert {x.dtype for x in result} == {torch.float32}
    inputs = [*sources, *targets, *([bandwidth] if rule == "tensor" else [])]
    gradients = torch.autograd.grad(result.loss, inputs)
    assert [g.dtype for g in gradients] == [x.dtype for x in inputs]
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.usefixtures("mps")
def test_streaming_without_float64(monkeypatch):
    monkeypatch.setattr(median, "TILE_ELEMENTS", 900)
    fastmmd.mmd(torch.randn(70, 9), torch.randn(61, 9), Gaussian("median"))


@pytest.mark.parametrize("estimator", ["biased", "linear"])
@pytest.mark.parametrize("rule", RULES)
def test_values_without_float64(monkeypatch, estimator, rule):
    sources, targets = (layers(60, (9, 4), seed, 0.3, torch.float32) for seed in range(2))
    arguments = (sources, targets, (RULES[rule], Gaussian(1.68, (1,))))
    exact = fastmmd.discrepancy(*arguments, estimator=estimator, backend="torch")
    with monkeypatch.context() as context, no_float64():
        context.setattr(extension, "module", None)
        found = fastmmd.discrepancy(*arguments, estimator=estimator, backend="torch")
    for mine, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


def test_float64_on_a_device_without_it_is_torchs_error():
    """Nothing here makes fp64 of its own accord, so the mode's error comes from the inputs alone."""
    with no_float64(), pytest.raises(TypeError, match="no float64"):
        fastmmd.mmd(torch.randn(5, 3).double(), torch.randn(5, 3))


def test_which_devices_accumulate_in_fp64():
    assert fastmmd.dtypes.accumulation_dtype(torch.device("cuda")) == torch.float64
    assert fastmmd.dtypes.accumulation_dtype(torch.device("cpu")) == torch.float64
    assert fastmmd.dtypes.accumulation_dtype(torch.device("mps")) == torch.float32


# Weights of pairs -----------------------------------------------------------------------------------------------------


def form_of(name, sources, targets, estimator):
    """The form that a function makes of arguments on the device of the rows."""
    rows, device = len(sources[0]), sources[0].device
    if name == "sample weights":
        make = sample_weights.form_maker(torch.empty(rows, device=device, requires_grad=True), None)
    else:
        labels = torch.empty(rows, dtype=torch.int64, device=device)
        probabilities = torch.empty(len(targets[0]), 5, device=device)
        make = local_mmd._form_maker(labels, probabilities)
    return make(sources, targets, estimator)


@pytest.mark.parametrize("name", ["sample weights", "local MMD"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("n", [20, 600])
@pytest.mark.parametrize("dense", [False, True])
def test_no_loss_with_weights_waits(name, estimator, n, dense):
    """Below the checks, as in `test_no_loss_waits`."""
    with nothing_waits():
        sources, targets = ([on_cuda(n, 9, torch.float16), on_cuda(n, 4)] for _ in range(2))
        call = call_of(
            sources,
            targets,
            (Gaussian(), Gaussian(1.68, (1,))),
            joint=0.5,
            marginal=(0.1, 0.0),
            estimator=estimator,
            form=form_of(name, sources, targets, estimator),
        )
        evaluation = reference.differentiable(call) if dense else autograd.evaluate(call, "torch")
    assert evaluation.loss.requires_grad
    assert evaluation.loss.device.type == "cuda"


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("given", [False, True], ids=["mean", "pair weights"])
def test_pairs_of_groups_do_not_wait_where_their_number_is_given(estimator, given):
    """Up to the op, which takes the place of the eager call under a tensor mode."""
    with nothing_waits():
        groups = torch.empty(20, dtype=torch.int64, device="cuda")
        pair_weights = torch.empty(3, 3, device="cuda") if given else None
        result = fastmmd.pairwise_mmd(
            [on_cuda(20, 9)], groups, pair_weights=pair_weights, num_groups=3, estimator=estimator, backend="torch"
        )
        assert result.values.device.type == "cuda"
        with pytest.raises(Exception, match="item|_local_scalar_dense|reads a number"):
            fastmmd.pairwise_mmd([on_cuda(20, 9)], groups, backend="torch")


def test_kernel_forms_do_not_wait():
    with nothing_waits():
        w = torch.empty(20, 5, device="cuda", requires_grad=True)
        forms = fastmmd.kernel_forms([on_cuda(20, 9)], [Gaussian()], w, backend="torch")
    assert forms.device.type == "cuda"


@pytest.mark.parametrize("call", FORM_CALLS.values(), ids=FORM_CALLS.keys())
@pytest.mark.parametrize("backend", ["torch", "auto", "reference"])
def test_no_form_needs_float64(monkeypatch, backend, call):
    """Values and gradients are those of fp64 sums to fp32's accuracy."""
    inputs = call.inputs(40, dtype=torch.float32)
    exact = call.loss(*inputs, backend="reference")
    gradients = torch.autograd.grad(exact, inputs)
    with monkeypatch.context() as context, no_float64():
        context.setattr(dispatch, "AUTOMATIC", ())
        context.setattr(extension, "module", None)
        loss = call.loss(*inputs, backend=backend)
        narrow = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(narrow, gradients, rtol=1e-4, atol=1e-5)
