"""Weights of samples: values and gradients against a dense kernel matrix, what must not change anything, what is
refused."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastmmd
from fastmmd import Gaussian
from tests.helpers import FAST, JAN, dense_kernel, dense_weighted_mmd, layers, relative

BACKENDS = [*FAST, "reference"]
ESTIMATORS = ("biased", "unbiased")
FIXED = Gaussian(2.0, (0.5, 1, 3))
RULES = {
    "mean": Gaussian(),
    "mean_all": Gaussian("mean_all", (1, 3), (2, 0.5)),
    "undetached": Gaussian(detach_bandwidth=False),
    "median": Gaussian("median", (0.5, 1)),
    "number": FIXED,
}


def weights_of(n, seed=0, dtype=torch.float64):
    """Positive weights, uneven."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.exp().to(dtype).requires_grad_()


def pair(n=9, m=7, dim=4, seed=0, dtype=torch.float64):
    return layers(n, (dim,), seed, dtype=dtype)[0], layers(m, (dim,), seed + 1, 0.5, dtype)[0]


def dense(sources, targets, kernels, a, b, *, estimator="biased", joint=1.0, marginal=None):
    kernel = dense_kernel([torch.cat(sides) for sides in zip(sources, targets, strict=True)], kernels, joint, marginal)
    return dense_weighted_mmd(kernel, a, b, estimator)


def check(sources, targets, kernels, a, b, others=(), *, backend, rtol=1e-9, atol=1e-13, **options):
    """The loss and all its gradients are those of the dense form."""
    variables = [*sources, *targets, a, b, *others]
    loss = fastmmd.discrepancy(
        sources, targets, kernels, source_weights=a, target_weights=b, backend=backend, **options
    ).loss
    exact = dense(sources, targets, kernels, a, b, **options)
    torch.testing.assert_close(loss, exact, rtol=rtol, atol=atol)
    gradients = torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(exact, variables, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gradients, expected, rtol=rtol, atol=atol)


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20)
@given(
    n=st.sampled_from([1, 2, 3, 17, 31, 33]),
    m=st.sampled_from([1, 2, 5, 31, 33]),
    dims=st.sampled_from([(5,), (3, 4), (1,), (2, 3, 4)]),
    estimator=st.sampled_from(ESTIMATORS),
    rule=st.sampled_from(list(RULES)),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_of_every_shape(backend, n, m, dims, estimator, rule, seed):
    if estimator == "unbiased":
        n, m = max(n, 2), max(m, 2)
    kernels = [RULES[rule], *[Gaussian(1.68, (1,))] * (len(dims) - 1)]
    sources, targets = layers(n, dims, seed), layers(m, dims, seed + 1, 0.5)
    marginal = (0.3, 0.2, 0.0)[: len(dims)]
    a, b = weights_of(n, seed), weights_of(m, seed + 1)
    check(sources, targets, kernels, a, b, backend=backend, estimator=estimator, joint=0.7, marginal=marginal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "m", "dims"), [(257, 130, (9, 5)), (64, 257, (17,)), (33, 31, (2,) * 8)])
def test_value_and_gradients_of_many_rows_and_layers(backend, estimator, n, m, dims):
    kernels = [Gaussian(), *[Gaussian(1.5, (1, 2))] * (len(dims) - 1)]
    sources, targets = layers(n, dims, 0), layers(m, dims, 1, 0.5)
    marginal = [0.1 * index for index in range(len(dims))]
    a, b = weights_of(n, 0), weights_of(m, 1)
    check(sources, targets, kernels, a, b, backend=backend, estimator=estimator, joint=0.7, marginal=marginal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bandwidth_and_kernel_weights_receive_their_gradients(backend, estimator):
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    betas = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    kernels = [Gaussian(bandwidth, (0.5, 1, 3)), Gaussian(1.68, (1, 4), betas)]
    others = (bandwidth, betas)
    options = {"estimator": estimator, "joint": 0.7, "marginal": (0.3, 0.2), "backend": backend}
    check(sources, targets, kernels, weights_of(9, 0), weights_of(7, 1), others, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weights_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_dtype_of_features_and_weights(backend, dtype, weights_dtype):
    """The loss is fp32 at least, gradients have their input's dtype and precision."""
    source, target = pair(40, 33, 6, dtype=dtype)
    a, b = weights_of(40, 0, weights_dtype), weights_of(33, 1, weights_dtype)
    inputs = (source, target, a, b)
    loss = fastmmd.mmd(source, target, FIXED, source_weights=a, target_weights=b, backend=backend)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    exact = dense(wide[:1], wide[1:2], [FIXED], *wide[2:])
    assert loss.item() == pytest.approx(exact.item(), rel=1e-9 if dtype == torch.float64 else 1e-5)
    gradients, expected = torch.autograd.grad(loss, inputs), torch.autograd.grad(exact, wide)
    for x, gradient, truth in zip(inputs, gradients, expected, strict=True):
        assert gradient.dtype == x.dtype
        assert relative(gradient, truth) < max(1e-5, torch.finfo(x.dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (0, 3), (1, 2, 3), ()])
def test_one_sided_gradients(backend, estimator, needed):
    inputs = [*pair(40, 33), weights_of(40, 0), weights_of(33, 1)]

    def loss(source, target, a, b):
        return fastmmd.mmd(source, target, source_weights=a, target_weights=b, estimator=estimator, backend=backend)

    full = torch.autograd.grad(loss(*inputs), inputs)
    value = loss(*[x if i in needed else x.detach() for i, x in enumerate(inputs)])
    assert value.requires_grad == bool(needed)
    if needed:
        gradients = torch.autograd.grad(value, [inputs[i] for i in needed])
        torch.testing.assert_close(gradients, tuple(full[i] for i in needed), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("side", ["source_weights", "target_weights"])
def test_weights_of_one_side_leave_the_other_even(backend, estimator, side):
    source, target = pair()
    even = {"source_weights": torch.ones(9), "target_weights": torch.ones(7)}
    given_side = {side: weights_of(len(even[side]))}
    options = {"estimator": estimator, "backend": backend}
    one = fastmmd.mmd(source, target, **given_side, **options)
    both = fastmmd.mmd(source, target, **{**even, **given_side}, **options)
    torch.testing.assert_close(one, both, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_parts_of_the_loss(backend, estimator):
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    weights = {"source_weights": weights_of(9, 0), "target_weights": weights_of(7, 1)}
    options = {"estimator": estimator, "backend": backend, **weights}
    parts = fastmmd.discrepancy(sources, targets, JAN, joint=0.2, marginal=(0.3, 0.1), **options)
    torch.testing.assert_close(parts.joint, fastmmd.jmmd(sources, targets, JAN, **options).detach())
    marginals = [fastmmd.mmd(s, t, k, **options).detach() for s, t, k in zip(sources, targets, JAN, strict=True)]
    torch.testing.assert_close(parts.marginals, torch.stack(marginals))
    torch.testing.assert_close(parts.loss, 0.2 * parts.joint + 0.3 * parts.marginals[0] + 0.1 * parts.marginals[1])
    plain = fastmmd.discrepancy(sources, targets, JAN, backend=backend)
    torch.testing.assert_close(parts.bandwidths, plain.bandwidths)  # bandwidth rules see all rows alike
    assert not (parts.joint.requires_grad or parts.marginals.requires_grad or parts.bandwidths.requires_grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_distance_and_its_gradient(backend, estimator):
    source, target = pair()
    weights = {"source_weights": weights_of(9, 0), "target_weights": weights_of(7, 1)}
    variables = (source, target, *weights.values())
    options = {"estimator": estimator, "backend": backend, **weights}
    value = fastmmd.mmd(source, target + 3, squared=False, **options)
    root = fastmmd.mmd(source, target + 3, **options).sqrt()
    torch.testing.assert_close(value, root)
    gradients = torch.autograd.grad(value, variables)
    torch.testing.assert_close(gradients, torch.autograd.grad(root, variables))
    layers_value = fastmmd.jmmd([source], [target + 3], [Gaussian()], squared=False, **options)
    torch.testing.assert_close(layers_value, value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_distance_of_equal_weighted_samples_is_zero_with_gradient_zero(backend, dtype, estimator):
    """An unbiased estimate of it is below 0."""
    source = pair(40, dtype=dtype)[0]
    twin = source.detach().clone().requires_grad_()
    a, b = weights_of(40, 0, dtype), weights_of(40, 0, dtype)
    options = {"estimator": estimator, "backend": backend, "source_weights": a, "target_weights": b}
    zero = fastmmd.mmd(source, twin, squared=False, **options)
    assert zero.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(zero, (source, twin, a, b)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_second_derivatives(backend, estimator):
    source, target = pair(4, 5, 3)
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(source, target, a, b, bandwidth):
        return fastmmd.mmd(
            source,
            target,
            Gaussian(bandwidth, (1, 3)),
            source_weights=a,
            target_weights=b,
            estimator=estimator,
            backend=backend,
        )

    assert torch.autograd.gradgradcheck(loss, (source, target, weights_of(4, 0), weights_of(5, 1), bandwidth))


# What changes nothing, and what changes as it must --------------------------------------------------------------------


def evaluate(source, target, a, b, kernel=FIXED, **options):
    """The loss, and the gradients of features and weights."""
    inputs = [x.detach().clone().requires_grad_() for x in (source, target, a, b)]
    loss = fastmmd.mmd(*inputs[:2], kernel, source_weights=inputs[2], target_weights=inputs[3], **options)
    return loss.detach(), torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20)
@given(
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    seed=st.integers(0, 99),
    estimator=st.sampled_from(ESTIMATORS),
    rule=st.sampled_from(list(RULES)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_weights_are_no_weights(backend, n, m, seed, estimator, rule, dtype):
    source, target = pair(n, m, seed=seed, dtype=dtype)
    options = {"estimator": estimator, "backend": backend}
    plain = fastmmd.mmd(source, target, RULES[rule], **options)
    gradients = torch.autograd.grad(plain, (source, target))
    a, b = torch.full((n,), 0.3), torch.full((m,), 7.0)
    loss, (*feature_gradients, _, _) = evaluate(source, target, a, b, RULES[rule], **options)
    rtol, atol = (2e-5, 2e-6) if dtype == torch.float32 else (1e-10, 1e-14)
    torch.testing.assert_close(loss, plain.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(tuple(feature_gradients), gradients, rtol=rtol, atol=atol)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=12)
@given(scales=st.tuples(st.floats(-30, 30), st.floats(-30, 30)), seed=st.integers(0, 99))
def test_the_scale_of_the_weights_changes_nothing(backend, estimator, scales, seed):
    source, target = pair(12, 9, seed=seed)
    a, b = weights_of(12, seed), weights_of(9, seed + 1)
    factors = [10.0**scale for scale in scales]
    options = {"estimator": estimator, "backend": backend}
    loss, gradients = evaluate(source, target, a, b, **options)
    scaled_loss, scaled = evaluate(source, target, factors[0] * a, factors[1] * b, **options)
    torch.testing.assert_close(scaled_loss, loss, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(scaled[:2], gradients[:2], rtol=1e-9, atol=1e-14)
    for weights, gradient, before, factor in zip((a, b), scaled[2:], gradients[2:], factors, strict=True):
        torch.testing.assert_close(gradient * factor, before, rtol=1e-9, atol=1e-13)
        assert abs((weights * before).sum().item()) < 1e-13  # no gradient along the scale


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=12)
@given(n=st.integers(2, 40), m=st.integers(2, 40), seed=st.integers(0, 99))
def test_permuting_rows_permutes_gradients(backend, estimator, n, m, seed):
    source, target = pair(n, m, seed=seed)
    a, b = weights_of(n, seed), weights_of(m, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    options = {"estimator": estimator, "backend": backend}
    loss, gradients = evaluate(source, target, a, b, **options)
    permuted_loss, permuted = evaluate(source[order], target, a[order], b, **options)
    swapped_loss, swapped = evaluate(target, source, b, a, **options)
    torch.testing.assert_close((permuted_loss, swapped_loss), (loss, loss), rtol=1e-10, atol=1e-14)
    expected = (gradients[0][order], gradients[1], gradients[2][order], gradients[3])
    torch.testing.assert_close(permuted, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(swapped, tuple(gradients[i] for i in (1, 0, 3, 2)), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_two_is_the_row_twice(backend):
    """With a given bandwidth, in the biased estimate: the unbiased one leaves out the pair of a row with its copy."""
    source, target = pair()
    counts = torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1])
    weighted, gradients = evaluate(source, target, counts.double(), torch.ones(7), backend=backend)
    index = torch.repeat_interleave(counts)
    repeated = source[index].detach().requires_grad_()
    plain = fastmmd.mmd(repeated, target, FIXED, backend=backend)
    torch.testing.assert_close(weighted, plain.detach(), rtol=1e-12, atol=1e-15)
    (by_copy,) = torch.autograd.grad(plain, repeated)
    torch.testing.assert_close(gradients[0], torch.zeros_like(source).index_add(0, index, by_copy))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_zero_leaves_a_row_out(backend, estimator, dtype):
    source, target = pair(12, 9, dtype=dtype)
    a, b = weights_of(12, 0, dtype).detach(), weights_of(9, 1, dtype).detach()
    a[::3] = 0
    kept = a > 0
    options = {"estimator": estimator, "backend": backend}
    loss, gradients = evaluate(source, target, a, b, **options)
    alone, expected = evaluate(source[kept], target, a[kept], b, **options)
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-15}
    torch.testing.assert_close(loss, alone, **tolerance)
    torch.testing.assert_close(gradients[0][kept], expected[0], **tolerance)
    assert not gradients[0][~kept].any()
    torch.testing.assert_close(gradients[1], expected[1], **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_hot_weights_compare_two_rows(backend):
    source, target = pair()
    a, b = torch.eye(9)[4], torch.eye(7)[2]
    loss, _ = evaluate(source, target, a, b, backend=backend)
    distance = (source[4] - target[2]).square().sum()
    expected = 2 * 3 - 2 * sum(torch.exp(-distance / (m * 2.0)) for m in (0.5, 1, 3))
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_step_of_weights_finds_the_rows_that_look_like_the_target(backend):
    """Importance weights: half of the source is drawn as the target."""
    torch.manual_seed(0)
    source = torch.cat([torch.randn(30, 3), torch.randn(30, 3) + 4])
    target = torch.randn(40, 3)
    logits = torch.zeros(60, requires_grad=True)
    for _ in range(20):
        loss = fastmmd.mmd(source, target, FIXED, source_weights=logits.exp(), backend=backend)
        logits = (logits - 20 * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    weights = logits.softmax(0)
    assert weights[:30].sum() > 0.85


# Numbers at the edge of their range -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("extreme", [1e-30, 1e30, 1e-300, 1e300])
def test_weights_of_any_size_in_one_domain(backend, estimator, extreme):
    """Beside a huge weight others do not count; a tiny one counts for nothing."""
    source, target = pair()
    a, b = weights_of(9).detach(), weights_of(7, 1).detach()
    a[[2, 5]] = extreme * torch.tensor([1.0, 3.0], dtype=torch.float64)
    kept = torch.ones(9, dtype=torch.bool) if extreme > 1 else a > 1e-20
    kept = a > 1e20 if extreme > 1 else kept
    options = {"estimator": estimator, "backend": backend}
    loss, gradients = evaluate(source, target, a, b, **options)
    expected, gradients_alone = evaluate(source[kept], target, a[kept], b, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(gradients[0][kept], gradients_alone[0], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extreme", [1e-30, 1e30])
def test_fp32_weights_of_any_size(backend, extreme):
    source, target = pair(40, 33, dtype=torch.float32)
    a, b = weights_of(40, 0, torch.float32), weights_of(33, 1, torch.float32)
    loss, gradients = evaluate(source, target, a, b, backend=backend)
    scaled_loss, scaled = evaluate(source, target, a * extreme, b, backend=backend)
    torch.testing.assert_close(scaled_loss, loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(scaled[:2], gradients[:2], rtol=1e-4, atol=1e-8)
    assert relative(scaled[2] * extreme, gradients[2]) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float16, 6e4),
        (torch.bfloat16, 3e38),
        (torch.float32, 3e38),
        (torch.float32, 1e-44),
        (torch.float64, 1e300),
        (torch.float64, 1e-300),
    ],
    ids=str,
)
def test_weights_whose_sum_their_dtype_or_the_features_does_not_hold(backend, estimator, dtype, size):
    source, target = pair(40, 33, dtype=torch.float16)
    a = torch.full((40,), size, dtype=dtype)
    options = {"estimator": estimator, "backend": backend}
    loss = fastmmd.mmd(source, target, FIXED, source_weights=a, **options)
    torch.testing.assert_close(loss, fastmmd.mmd(source, target, FIXED, **options), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["mean", "undetached", "median", "number"])
def test_constant_features_give_zero_not_nan(backend, estimator, dtype, rule):
    source, target = (torch.full((12, 7), 0.1, dtype=dtype, requires_grad=True) for _ in range(2))
    a, b = weights_of(12, 0), weights_of(12, 1)
    loss = fastmmd.mmd(
        source, target, RULES[rule], source_weights=a, target_weights=b, estimator=estimator, backend=backend
    )
    epsilon = torch.finfo(loss.dtype).eps
    assert abs(loss.item()) <= 20 * epsilon
    *features, of_a, of_b = torch.autograd.grad(loss, (source, target, a, b))
    assert not any(g.any() for g in features)
    assert max(of_a.abs().max(), of_b.abs().max()) <= 20 * epsilon


@pytest.mark.parametrize("backend", [*BACKENDS])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_far_from_zero(backend, estimator, dtype):
    """A power of two as the shift, and coordinates on its grid: the shifted rows are exact."""
    source, target = ((x.detach() * 64).round() / 64 for x in pair(40, 33, dtype=dtype))
    a, b = weights_of(40, 0, dtype), weights_of(33, 1, dtype)
    options = {"estimator": estimator, "backend": backend}
    loss, gradients = evaluate(source, target, a, b, **options)
    far_loss, far = evaluate(source + 2.0**14, target + 2.0**14, a, b, **options)
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-12}
    torch.testing.assert_close(far_loss, loss, **tolerance)
    for before, after in zip(gradients, far, strict=True):
        assert relative(after, before) < tolerance["rtol"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_biased_is_never_negative(backend):
    for seed in range(20):
        x = layers(9, (3,), seed, dtype=torch.float32)[0]
        a = weights_of(9, seed, torch.float32)
        assert fastmmd.mmd(x, x.flip(0), source_weights=a, target_weights=a.flip(0), backend=backend) >= 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("side", ["source_weights", "target_weights"])
@pytest.mark.parametrize("row", [0, -1])
def test_a_weight_of_nan_reaches_the_loss_and_its_gradients(backend, estimator, side, row):
    source, target = pair(8, 8, dtype=torch.float32)
    weights = torch.ones(8)
    weights[row] = torch.nan
    weights.requires_grad_()
    parts = fastmmd.discrepancy(
        [source], [target], [Gaussian()], estimator=estimator, backend=backend, **{side: weights}
    )
    assert parts.loss.isnan()
    assert parts.marginals.isnan().all()
    assert all(g.isnan().any() for g in torch.autograd.grad(parts.loss, (source, target, weights)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_row_is_not_hidden_by_its_weight(backend, value, weight, rule):
    source, target = pair(20, 20, dtype=torch.float32)
    with torch.no_grad():
        source[3, 1] = value
    a = torch.ones(20)
    a[3] = weight
    loss = fastmmd.mmd(source, target, RULES[rule], source_weights=a, backend=backend)
    assert loss.isnan()


# What is refused ------------------------------------------------------------------------------------------------------

X, ONES = torch.randn(6, 3), torch.ones(6)
TWO_ROWS = torch.tensor([1.0, 0, 2, 0, 0, 0])
REFUSED = {
    "not a tensor": ([1.0] * 6, TypeError, "expected a tensor, got list"),
    "too few": (torch.ones(5), ValueError, r"shape \(6,\).*\(5,\)"),
    "a column": (torch.ones(6, 1), ValueError, r"shape \(6,\).*\(6, 1\)"),
    "a number": (torch.ones(()), ValueError, r"shape \(6,\).*\(\)"),
    "integers": (torch.ones(6, dtype=torch.int64), ValueError, "floating-point.*int64"),
    "booleans": (torch.ones(6, dtype=torch.bool), ValueError, "floating-point.*bool"),
    "complex": (torch.ones(6, dtype=torch.complex64), ValueError, "floating-point.*complex64"),
    "another device": (torch.ones(6, device="meta"), ValueError, "on cpu, got one on meta"),
    "negative": (torch.tensor([1.0, 1, -0.5, 1, 1, 1]), ValueError, "non-negative.*-0.5"),
    "zeros": (torch.zeros(6), ValueError, "positive, finite sum.*0"),
    "infinity": (torch.tensor([1.0, 1, torch.inf, 1, 1, 1]), ValueError, "positive, finite sum.*inf"),
    "minus infinity": (torch.tensor([1.0, 1, -torch.inf, 1, 1, 1]), ValueError, "non-negative.*-inf"),
    "a sum beyond fp64": (torch.full((6,), 1e308, dtype=torch.float64), ValueError, "positive, finite sum.*inf"),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["source_weights", "target_weights"])
@pytest.mark.parametrize(("weights", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_weights_are_refused_by_name(estimator, name, weights, kind, message):
    for loss in (fastmmd.MMDLoss(estimator=estimator), fastmmd.MMDLoss(estimator=estimator).discrepancy):
        with pytest.raises(kind, match=f"{name}: .*{message}"):
            loss(X, X, **{name: weights})


@pytest.mark.parametrize("name", ["source_weights", "target_weights"])
@pytest.mark.parametrize("others", [0.0, 1e-30])
def test_unbiased_needs_two_rows_that_count(name, others):
    weights = torch.full((6,), others)
    weights[2] = 3.0
    with pytest.raises(ValueError, match=f"{name}.*'unbiased' needs at least 2 rows of positive weight, got 1"):
        fastmmd.mmd(X, X, estimator="unbiased", **{name: weights})
    assert fastmmd.mmd(X, X, **{name: weights}).isfinite()
    assert fastmmd.mmd(X, X, estimator="unbiased", **{name: TWO_ROWS}).isfinite()


@pytest.mark.parametrize("estimator", ["linear", "circular"])
@pytest.mark.parametrize("name", ["source_weights", "target_weights"])
def test_linear_time_estimators_take_no_weights(estimator, name):
    with pytest.raises(ValueError, match=rf"{name}.*'{estimator}'"):
        fastmmd.mmd(X, X, estimator=estimator, **{name: ONES})


# Modules --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_modules_take_weights(estimator):
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    a, b = weights_of(9, 0), weights_of(7, 1)
    weights = {"source_weights": a, "target_weights": b}
    mmd = fastmmd.MMDLoss(FIXED, estimator=estimator)
    expected = fastmmd.mmd(sources[0], targets[0], FIXED, estimator=estimator, **weights)
    torch.testing.assert_close(mmd(sources[0], targets[0], a, b), expected)
    torch.testing.assert_close(mmd.discrepancy(sources[0], targets[0], a, b).loss, expected)
    jmmd = fastmmd.JMMDLoss(estimator=estimator)
    expected = fastmmd.jmmd(sources, targets, estimator=estimator, **weights)
    torch.testing.assert_close(jmmd(sources, targets, a, b), expected)
    torch.testing.assert_close(jmmd.discrepancy(sources, targets, a, b).loss, expected)
    transfer = fastmmd.TransferLoss(estimator=estimator)
    parts = fastmmd.discrepancy(sources, targets, joint=0.2, marginal=(0.3, 0.0), estimator=estimator, **weights)
    torch.testing.assert_close(transfer(sources, targets, a, b), parts.loss)
    for twin in (copy.deepcopy(transfer), pickle.loads(pickle.dumps(transfer))):
        assert torch.equal(twin(sources, targets, target_weights=b, source_weights=a), parts.loss)


@pytest.mark.parametrize("module", [fastmmd.MMDLoss, fastmmd.JMMDLoss])
def test_modules_give_the_weighted_distance(module):
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    inputs = (sources[0], targets[0]) if module is fastmmd.MMDLoss else (sources, targets)
    a = weights_of(9, 0)
    torch.testing.assert_close(module(squared=False)(*inputs, a), module()(*inputs, a).sqrt())


def test_a_learned_bandwidth_and_learned_weights_train_together():
    module = fastmmd.MMDLoss(Gaussian(nn.Parameter(torch.tensor(2.0)), (1, 2), nn.Parameter(torch.ones(2))))
    source, target = pair(12, 10, dtype=torch.float32)
    logits = nn.Parameter(torch.zeros(12))
    before = module(source, target, logits.exp())
    before.backward()
    assert all(parameter.grad.any() for parameter in (*module.parameters(), logits))
    torch.optim.SGD([*module.parameters(), logits], 0.1).step()
    assert module(source, target, logits.exp()) < before
