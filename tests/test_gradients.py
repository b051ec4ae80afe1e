"""Gradients: against differences, one-sided, scaled, repeated, twice."""

import pytest
import torch

import fastmmd
from fastmmd import Gaussian
from tests.helpers import FAST, JAN, layers

BACKENDS = [*FAST, "reference"]
ESTIMATORS = ("biased", "unbiased", "linear", "circular")


def pair(n=6, m=6, dim=4, seed=0):
    return layers(n, (dim,), seed)[0], layers(m, (dim,), seed + 1, 0.5)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bandwidth", ["mean", "mean_all", 3.0])
def test_gradcheck(backend, estimator, bandwidth):
    """Finite differences see the bandwidth move, so the mean rules are checked undetached."""
    if backend not in ("torch", "reference") and estimator in ("linear", "circular"):
        pytest.skip("plain torch whatever the backend")
    kernel = Gaussian(bandwidth, (0.5, 1, 3), detach_bandwidth=isinstance(bandwidth, float))

    def loss(source, target):
        return fastmmd.mmd(source, target, kernel, estimator=estimator, backend=backend)

    assert torch.autograd.gradcheck(loss, pair())


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_of_all_terms(backend):
    sources, targets = layers(5, (3, 4, 2), 0), layers(4, (3, 4, 2), 1, 0.5)
    kernels = [Gaussian(detach_bandwidth=False), Gaussian(1.68, (1,)), Gaussian(0.5, (1, 2))]

    def loss(*inputs):
        return fastmmd.discrepancy(
            inputs[:3], inputs[3:], kernels, joint=0.7, marginal=(0.3, 0.0, 0.2), backend=backend
        ).loss

    assert torch.autograd.gradcheck(loss, (*sources, *targets))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_a_learned_bandwidth(backend):
    source, target = pair()

    def loss(bandwidth):
        return fastmmd.mmd(source.detach(), target.detach(), Gaussian(bandwidth), backend=backend)

    assert torch.autograd.gradcheck(loss, torch.tensor(2.0, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("backend", FAST)
def test_undetached_mean_bandwidth_makes_the_loss_scale_free(backend):
    source, target = pair(9, 7)
    kernel = Gaussian(detach_bandwidth=False)
    loss = fastmmd.mmd(source, target, kernel, backend=backend)
    grads = torch.autograd.grad(loss, (source, target))
    centre = torch.cat([source, target]).mean(0)
    along = ((source - centre) * grads[0]).sum() + ((target - centre) * grads[1]).sum()
    assert abs(along.item()) < 1e-14
    assert fastmmd.mmd(5 * source, 5 * target, kernel, backend=backend).item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), (1, 2, 3)])
def test_one_sided_gradients(backend, wanted):
    """A detached side costs nothing and changes nothing."""
    inputs = [*layers(40, (9, 4), 0), *layers(33, (9, 4), 1)]
    full = torch.autograd.grad(fastmmd.jmmd(inputs[:2], inputs[2:], JAN, backend=backend), inputs)
    some = [x if i in wanted else x.detach() for i, x in enumerate(inputs)]
    found = torch.autograd.grad(fastmmd.jmmd(some[:2], some[2:], JAN, backend=backend), [inputs[i] for i in wanted])
    for i, gradient in zip(wanted, found, strict=True):
        assert torch.equal(gradient, full[i])


@pytest.mark.parametrize("backend", FAST)
def test_scale_and_reuse(backend):
    source, target = pair()
    loss = fastmmd.mmd(source, target, backend=backend)
    once = torch.autograd.grad(loss, (source, target), retain_graph=True)
    scaled = torch.autograd.grad(loss, (source, target), torch.tensor(-3.0, dtype=torch.float64), retain_graph=True)
    again = torch.autograd.grad(loss, (source, target))
    for a, b, c in zip(once, scaled, again, strict=True):
        assert torch.equal(a, c)
        torch.testing.assert_close(b, -3 * a)


@pytest.mark.parametrize("backend", FAST)
def test_shared_tensor_on_both_sides(backend):
    x = layers(8, (3,), 0)[0]
    (gradient,) = torch.autograd.grad(fastmmd.mmd(x, x, backend=backend), x)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("backend", FAST)
def test_loss_scale_reaches_fp16_before_rounding(backend):
    """As GradScaler does it: gradients far below fp16's smallest number survive when the loss is scaled."""
    source = (layers(200, (8,), 0)[0].detach() * 300).half().requires_grad_()
    target = (layers(200, (8,), 1, 0.5)[0].detach() * 300).half().requires_grad_()
    loss = fastmmd.mmd(source, target, backend=backend)
    (plain,) = torch.autograd.grad(loss, source, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss, source, torch.tensor(2.0**16))
    exact = torch.autograd.grad(fastmmd.mmd(source.double(), target.double(), backend=backend), source)[0]
    del exact
    wide = source.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(fastmmd.mmd(wide, target.detach().double(), backend=backend), wide)
    error = (scaled.double() / 2**16 - truth).norm() / truth.norm()
    assert error < 1e-3 < (plain.double() - truth).norm() / truth.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [Gaussian(2.0), Gaussian(detach_bandwidth=False)])
def test_second_derivatives(backend, kernel):
    assert torch.autograd.gradgradcheck(lambda s, t: fastmmd.mmd(s, t, kernel, backend=backend), pair(4, 5, 3))


@pytest.mark.parametrize("backend", FAST)
def test_gradient_penalty_includes_the_loss(backend):
    """create_graph without a grad_output that requires grad: the usual way to lose a second derivative silently."""
    source, target = pair()
    penalties = []
    for name in (backend, "reference"):
        total = source.square().sum() + fastmmd.mmd(source, target, Gaussian(2.0), backend=name)
        (first,) = torch.autograd.grad(total, source, create_graph=True)
        penalties.append(torch.autograd.grad(first.square().sum(), source)[0])
    torch.testing.assert_close(*penalties)


@pytest.mark.parametrize("backend", FAST)
def test_second_derivative_after_an_in_place_change_is_refused(backend):
    source, target = pair()
    hidden = source * 1
    loss = fastmmd.mmd(hidden, target, backend=backend)
    hidden.data.add_(0)  # invisible to autograd
    with torch.no_grad():
        hidden.add_(1)
    torch.autograd.grad(loss, source, retain_graph=True)  # the first derivative was computed before
    with pytest.raises(RuntimeError, match="in place"):
        torch.autograd.grad(loss, source, create_graph=True)
