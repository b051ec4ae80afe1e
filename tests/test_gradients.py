"""Gradients: against differences, one-sided, scaled, repeated, twice."""

import gc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastmmd
from fastmmd import Gaussian
from tests.form_calls import FORM_CALLS
from tests.helpers import FAST, JAN, layers, relative
from tests.test_memory import peak_bytes

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
@pytest.mark.parametrize("gap", [10.0, 1e3, 1e5])
def test_gradient_of_a_learned_bandwidth_in_far_clusters(backend, gap):
    """``<Z, dL/dZ>`` loses what the clusters' distance is larger than the bandwidth."""
    if backend in ("cuda", "triton"):
        pytest.skip("a GPU can't see it without waiting; fastmmd.conditioning warns")
    index = torch.arange(60)
    cluster = gap * (index % 3 == 0)
    source = torch.stack([cluster + torch.sin(index * 2.3), torch.sin(index * 1.7)], 1)
    target = torch.stack([cluster + torch.sin(index * 2.3 + 0.4), torch.sin(index * 1.7 + 0.9) + 0.3], 1)
    bandwidth = torch.tensor(1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(fastmmd.mmd(source, target, Gaussian(bandwidth, (1,)), backend=backend), bandwidth)
    wide = bandwidth.detach().double().requires_grad_()
    loss = fastmmd.mmd(source.double(), target.double(), Gaussian(wide, (1,)), backend="reference")
    assert slope.item() == pytest.approx(torch.autograd.grad(loss, wide)[0].item(), rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("far", [1e4, 1e8])
def test_a_far_row_leaves_the_others_their_gradients_under_a_mean_bandwidth(backend, detach, far):
    by_differences = backend in ("cpu", "reference")
    around_bulk = backend not in ("cuda", "triton") and not detach  # an undetached mean is a given bandwidth
    if not (by_differences or around_bulk):
        pytest.skip("products around the mean")
    source, target = (layers(30, (3,), seed, 0.3 * seed, torch.float32)[0].detach() for seed in (0, 1))
    source[0] = far

    def gradient(x, y, name):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(fastmmd.mmd(x, y, Gaussian("mean", (1,), None, detach), backend=name), x)[0]

    assert relative(gradient(source, target, backend), gradient(source.double(), target.double(), "reference")) < 1e-5


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
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (0, 3), (1, 2, 3)])
def test_one_sided_gradients(backend, needed):
    """A detached side costs nothing and changes nothing."""
    inputs = [*layers(40, (9, 4), 0), *layers(33, (9, 4), 1)]
    full = torch.autograd.grad(fastmmd.jmmd(inputs[:2], inputs[2:], JAN, backend=backend), inputs)
    some = [x if i in needed else x.detach() for i, x in enumerate(inputs)]
    gradients = torch.autograd.grad(fastmmd.jmmd(some[:2], some[2:], JAN, backend=backend), [inputs[i] for i in needed])
    for i, gradient in zip(needed, gradients, strict=True):
        assert torch.equal(gradient, full[i])


@pytest.mark.parametrize("backend", FAST)
def test_gradients_scale_and_can_be_taken_again(backend):
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
@pytest.mark.skipif(
    not hasattr(torch._C._autograd.SavedTensor, "unpack"), reason="torch opens all saved tensors at once"
)
def test_a_layer_behind_the_loss_may_work_in_place(backend):
    """``nn.ReLU(inplace=True)`` on features that the loss has seen: the first derivative needs no input, the second
    does and is refused."""
    source, target = pair()

    def total(inplace):
        hidden = source * 1
        loss = fastmmd.mmd(hidden, target, backend=backend)
        return loss + torch.nn.ReLU(inplace)(hidden).square().sum()

    torch.testing.assert_close(torch.autograd.grad(total(True), source), torch.autograd.grad(total(False), source))
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(total(True), source, create_graph=True)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(backend, use_reentrant):
    source, target = pair()
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(s, b):
        return fastmmd.mmd(s * 1.5, target, Gaussian(b), backend=backend)

    expected = torch.autograd.grad(loss(source, bandwidth), (source, bandwidth))
    checkpoint(loss, source, bandwidth, use_reentrant=use_reentrant).backward()
    torch.testing.assert_close((source.grad, bandwidth.grad), expected)
    if not use_reentrant:
        (first,) = torch.autograd.grad(checkpoint(loss, source, 2.0, use_reentrant=False), source, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), source)
        (exact,) = torch.autograd.grad(loss(source, 2.0), source, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(exact.square().sum(), source)[0])


@pytest.mark.parametrize("backend", FAST)
def test_saved_tensors_may_wait_elsewhere(backend):
    source, target = pair()
    expected = torch.autograd.grad(fastmmd.mmd(source, target, backend=backend), (source, target))
    packed = torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(force=True).copy(), torch.from_numpy)
    for hooks in (packed, torch.autograd.graph.save_on_cpu()):
        with hooks:
            loss = fastmmd.mmd(source, target, backend=backend)
        torch.testing.assert_close(torch.autograd.grad(loss, (source, target)), expected)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_many_gradients_at_once(backend):
    """``is_grads_batched`` and vmap over a vector-Jacobian product run backward under two kinds of vmap."""
    source, target = pair()
    scales = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    loss = fastmmd.mmd(source, target, backend=backend)
    (single,) = torch.autograd.grad(loss, source, retain_graph=True)
    (many,) = torch.autograd.grad(loss, source, scales, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(many, scales[:, None, None] * single)
    mapped = torch.vmap(lambda scale: torch.autograd.grad(loss, source, scale, retain_graph=True)[0])(scales)
    torch.testing.assert_close(mapped, many)


class Operations(TorchDispatchMode):
    """The names of the operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", FAST)
def test_backward_is_one_operation_for_all_gradients(backend):
    """On a GPU one launch, where one per gradient was most of a small loss's backward."""
    sources, targets = layers(12, (8, 4, 3), 0), layers(10, (8, 4, 3), 1)
    loss = fastmmd.jmmd(sources, targets, [Gaussian()] * 3, backend=backend)
    with Operations() as operations:
        torch.autograd.grad(loss, [*sources, *targets], torch.ones_like(loss))
    assert operations.names == ["ones_like", "_foreach_mul"]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_distance_has_no_gradient_where_it_is_zero(backend, estimator):
    source, target = pair()
    options = {"estimator": estimator, "backend": backend}
    value = fastmmd.mmd(source, target + 3, squared=False, **options)
    root = fastmmd.mmd(source, target + 3, **options).sqrt()
    torch.testing.assert_close(value, root)
    torch.testing.assert_close(torch.autograd.grad(value, source), torch.autograd.grad(root, source))
    twin = source.detach()[
        list(range(6)) if estimator in ("linear", "circular") else [3, 1, 0, 5, 2, 4]
    ].requires_grad_()
    zero = fastmmd.mmd(source, twin, squared=False, **options)
    assert zero.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(zero, (source, twin)))
    spoilt = source.detach().clone()
    spoilt[0, 0] = torch.nan
    assert fastmmd.mmd(spoilt, twin, squared=False, **options).isnan()


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_half_precision_inputs_are_scaled_before_they_are_rounded(backend):
    """A loss scale reaches gradients that fp16 would flush."""
    source, target = (layers(300, (4,), seed, dtype=torch.float16)[0] for seed in (0, 1))
    (scaled,) = torch.autograd.grad(fastmmd.mmd(source, target, Gaussian(1e4), backend=backend) * 1e6, source)
    wide = source.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(fastmmd.mmd(wide, target.double(), Gaussian(1e4), backend="reference") * 1e6, wide)
    assert scaled.dtype == torch.float16
    assert relative(scaled, exact) < 2e-3


DEPENDENT = {  # layers that depend on one another: JAN's own use
    "softmax of the features": lambda h, w: ([h, (h @ w).softmax(1)], JAN),
    "one tensor twice": lambda h, w: ([h, h], (Gaussian(2.0), Gaussian(3.0))),
    "undetached mean": lambda h, w: ([h], (Gaussian(detach_bandwidth=False),)),
    "bandwidth from the features": lambda h, w: ([h], (Gaussian(h.square().mean()),)),
}


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("build", DEPENDENT.values(), ids=DEPENDENT.keys())
def test_derivatives_of_layers_that_depend_on_one_another(backend, build):
    """create_graph changes no first derivative, and the second is the reference's."""
    leaf, target_leaf = pair(7, 5)
    head = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    target, _ = build(target_leaf.detach(), head.detach())

    def derivatives(name):
        sources, kernels = build(leaf * 1.5, head)
        loss = fastmmd.jmmd(sources, target, kernels, backend=name)
        plain = torch.autograd.grad(loss, (leaf, head), retain_graph=True, allow_unused=True)
        first = torch.autograd.grad(loss, (leaf, head), create_graph=True, allow_unused=True)
        penalty = sum(g.square().sum() for g in first if g is not None)
        second = torch.autograd.grad(penalty, (leaf, head), allow_unused=True)
        return plain, first, second

    for derivative, expected in zip(derivatives(backend), derivatives("reference"), strict=True):
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
def test_create_graph_alone_stays_small(backend):
    """A gradient penalty on another term must not make this loss dense: 1,000 x 1,000 x 64 would be 488 MiB."""
    source, target = (torch.randn(500, 64, requires_grad=True) for _ in range(2))
    loss = fastmmd.mmd(source, target, backend=backend)
    assert peak_bytes(lambda: torch.autograd.grad(loss, (source, target), create_graph=True)) < 4 * source.nbytes


@pytest.mark.parametrize("backend", FAST)
def test_saved_tensors_are_seen_by_hooks_and_freed(backend):
    source, target = pair()
    packed = []

    def pack(x):
        packed.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = source * 1
        loss = fastmmd.mmd(hidden, target, backend=backend)
    assert any(x.data_ptr() == hidden.data_ptr() for x in packed)
    packed.clear()
    alive = weakref.ref(hidden)
    loss.backward()
    del hidden
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("backend", FAST)
def test_an_inference_tensor_may_be_the_other_side(backend):
    source, target = pair()
    expected = torch.autograd.grad(fastmmd.mmd(source, target * 2, backend=backend), source)
    with torch.inference_mode():
        frozen = target * 2
    gradient = torch.autograd.grad(fastmmd.mmd(source, frozen, backend=backend), source)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", FAST)
def test_forward_mode_is_refused_not_lost(backend):
    source, target = (x.detach() for x in pair())
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="backend='reference'"):
        fastmmd.mmd(forward_ad.make_dual(source, torch.ones_like(source)), target, backend=backend)
    bandwidth = torch.tensor(2.0, dtype=torch.float64)

    def of_bandwidth(b):
        return fastmmd.mmd(source, target, Gaussian(b), backend=backend)

    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="backend='reference'"):
        of_bandwidth(forward_ad.make_dual(bandwidth, torch.ones_like(bandwidth)))
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.linearize(of_bandwidth, bandwidth)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.jvp(lambda s: fastmmd.mmd(s, target, backend=backend), (source,), (torch.ones_like(source),))
    _, tangent = torch.func.jvp(
        lambda s: fastmmd.mmd(s, target, Gaussian(2.0), backend="reference"), (source,), (torch.ones_like(source),)
    )
    gradient = torch.func.grad(lambda s: fastmmd.mmd(s, target, Gaussian(2.0)))(source)
    torch.testing.assert_close(tangent, gradient.sum())


# Weights of pairs -----------------------------------------------------------------------------------------------------

every_form = pytest.mark.parametrize("call", FORM_CALLS.values(), ids=FORM_CALLS.keys())


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_form_gradients_scale_and_can_be_taken_again(backend, call):
    inputs = call.inputs()
    loss = call.loss(*inputs, backend=backend)
    once = torch.autograd.grad(loss, inputs, retain_graph=True)
    scaled = torch.autograd.grad(loss, inputs, torch.tensor(-3.0, dtype=torch.float64), retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    for a, b, c in zip(once, scaled, again, strict=True):
        assert torch.equal(a, c)
        torch.testing.assert_close(b, -3 * a)


@pytest.mark.parametrize("backend", FAST)
@every_form
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_forms(backend, call, use_reentrant):
    inputs = call.inputs()

    def loss(x, other):
        return call.loss(1.5 * x, other, backend=backend)

    expected = torch.autograd.grad(loss(*inputs), inputs)
    checkpoint(loss, *inputs, use_reentrant=use_reentrant).backward()
    torch.testing.assert_close(tuple(x.grad for x in inputs), expected)


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_saved_tensors_of_forms_may_wait_elsewhere(backend, call):
    inputs = call.inputs()
    expected = torch.autograd.grad(call.loss(*inputs, backend=backend), inputs)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(force=True).copy(), torch.from_numpy):
        loss = call.loss(*inputs, backend=backend)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@every_form
def test_second_derivatives_of_forms_are_the_references(backend, call):
    """create_graph changes no first derivative; the mixed ones are there too."""
    inputs = call.inputs()

    def derivatives(name):
        loss = call.loss(*inputs, backend=name)
        plain = torch.autograd.grad(loss, inputs, retain_graph=True)
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        return plain, first, torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for derivative, expected in zip(derivatives(backend), derivatives("reference"), strict=True):
        torch.testing.assert_close(derivative, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@every_form
def test_forms_of_strided_and_expanded_inputs(backend, call):
    """Every second column of a wider tensor, a transposed one, one row or number for all; none is written."""
    x, other = call.inputs()
    wide = torch.stack([x.detach(), torch.randn_like(x)], 2).flatten(1)[:, ::2].requires_grad_()
    transposed = x.detach().T.contiguous().T.requires_grad_()
    expected = torch.autograd.grad(call.loss(x, other, backend=backend), (x, other))
    strided = torch.stack([other.detach(), other.detach() + 1], -1)[..., 0].requires_grad_()
    for features in (wide, transposed):
        versions = features._version, strided._version
        gradients = torch.autograd.grad(call.loss(features, strided, backend=backend), (features, strided))
        torch.testing.assert_close(gradients, expected, rtol=1e-11, atol=1e-14)
        assert (features._version, strided._version) == versions
        assert torch.equal(features, x)
    number = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    row = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    rows = torch.cat([row.expand(6, 4), x[6:]])
    expanded = call.loss(rows, number.expand(other.shape), backend=backend)
    copied = call.loss(rows.clone(), number.expand(other.shape).clone(), backend=backend)
    torch.testing.assert_close(expanded, copied, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(loss, (row, number), retain_graph=True) for loss in (expanded, copied)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
def test_a_loss_scale_reaches_fp16_weights_of_many_rows_before_rounding(backend):
    """Gradients of many weights are small: fp16 would flush them."""
    source, target = (layers(300, (4,), seed, 0.2 * seed, torch.float32)[0].detach() for seed in (0, 1))
    weights = torch.full((300,), 1e3, dtype=torch.float16, requires_grad=True)
    loss = fastmmd.mmd(source, target, Gaussian(50.0), source_weights=weights, backend=backend)
    (scaled,) = torch.autograd.grad(loss, weights, torch.tensor(2.0**24))
    wide = weights.detach().double().requires_grad_()
    exact = fastmmd.mmd(source.double(), target.double(), Gaussian(50.0), source_weights=wide, backend="reference")
    assert relative(scaled.double() / 2**24, torch.autograd.grad(exact, wide)[0]) < 1e-3


@pytest.mark.parametrize("backend", FAST)
def test_weights_that_depend_on_the_features(backend):
    """Only the direct dependence belongs to each gradient."""
    leaf, target = pair(7, 5)
    head = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def derivatives(name):
        weights = (leaf @ head).sigmoid()
        loss = fastmmd.mmd(leaf * 1.5, target, Gaussian(2.0), source_weights=weights, backend=name)
        first = torch.autograd.grad(loss, (leaf, head), create_graph=True)
        return first, torch.autograd.grad(sum(g.square().sum() for g in first), (leaf, head))

    for derivative, expected in zip(derivatives(backend), derivatives("reference"), strict=True):
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
def test_create_graph_of_a_weighted_loss_of_many_rows_stays_small(backend):
    """A gradient penalty on another term must not make this loss dense: 1,000 x 1,000 x 64 would be 488 MiB."""
    source, target = (torch.randn(500, 64, requires_grad=True) for _ in range(2))
    loss = fastmmd.mmd(source, target, source_weights=torch.rand(500), backend=backend)
    assert peak_bytes(lambda: torch.autograd.grad(loss, (source, target), create_graph=True)) < 4 * source.nbytes
