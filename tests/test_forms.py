"""`kernel_forms`: against ``diag(W^T K W)`` of a dense K, what must hold of any quadratic form, edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmmd
from fastmmd import Gaussian
from tests.helpers import FAST, JAN, dense_kernel, layers, off_diagonal, relative

BACKENDS = [*FAST, "reference"]
FIXED = Gaussian(2.0, (0.5, 1, 3))
RULES = {
    "mean": Gaussian(),
    "undetached": Gaussian("mean_all", detach_bandwidth=False),
    "median": Gaussian("median", (0.5, 1)),
    "number": FIXED,
}


def columns(n=12, count=3, seed=0, dtype=torch.float64):
    """W: normal numbers."""
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(n, count, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def dense(rows, kernels, w, diagonal=True):
    kernel = dense_kernel(rows, kernels)
    return torch.einsum("ip,ij,jp->p", w.double(), kernel if diagonal else off_diagonal(kernel), w.double())


def check(rows, kernels, w, others=(), *, backend, diagonal=True):
    """The forms, and the gradients of all that there is, for uneven gradients of the forms."""
    variables = [*rows, w, *others]
    forms = fastmmd.kernel_forms(rows, kernels, w, diagonal=diagonal, backend=backend)
    exact = dense(rows, kernels, w, diagonal)
    torch.testing.assert_close(forms, exact, rtol=1e-9, atol=1e-10)
    scales = torch.linspace(-1, 2, w.shape[1], dtype=torch.float64)
    gradients = torch.autograd.grad(forms, variables, scales)
    torch.testing.assert_close(gradients, torch.autograd.grad(exact, variables, scales), rtol=1e-9, atol=1e-10)


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20)
@given(
    n=st.sampled_from([2, 3, 17, 31, 33]),
    count=st.sampled_from([1, 2, 5, 31, 33]),
    dims=st.sampled_from([(5,), (3, 4), (1,), (2, 3, 4)]),
    diagonal=st.booleans(),
    rule=st.sampled_from(list(RULES)),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_of_every_shape(backend, n, count, dims, diagonal, rule, seed):
    kernels = [RULES[rule], *[Gaussian(1.68, (1,))] * (len(dims) - 1)]
    check(layers(n, dims, seed), kernels, columns(n, count, seed), backend=backend, diagonal=diagonal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize(("n", "dims", "count"), [(257, (9, 5), 130), (130, (17,), 257), (33, (2,) * 8, 3)])
def test_value_and_gradients_of_many_rows_and_forms(backend, diagonal, n, dims, count):
    kernels = [Gaussian(), *[Gaussian(1.5, (1, 2))] * (len(dims) - 1)]
    check(layers(n, dims), kernels, columns(n, count), backend=backend, diagonal=diagonal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [True, False])
def test_bandwidth_and_kernel_weights_receive_their_gradients(backend, diagonal):
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    betas = torch.tensor([-0.5, 2.0], dtype=torch.float64, requires_grad=True)
    kernels = [Gaussian(bandwidth, (1, 4), betas), Gaussian(1.68, (1, 2))]
    check(layers(12, (4, 3)), kernels, columns(), (bandwidth, betas), backend=backend, diagonal=diagonal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("w_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_dtype_of_features_and_weights(backend, dtype, w_dtype):
    (x,), w = layers(73, (6,), dtype=dtype), columns(73, 5, dtype=w_dtype)
    forms = fastmmd.kernel_forms([x], [FIXED], w, backend=backend)
    assert forms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = [v.detach().double().requires_grad_() for v in (x, w)]
    exact = dense(wide[:1], [FIXED], wide[1])
    assert relative(forms, exact) < 1e-5
    gradients, expected = torch.autograd.grad(forms.sum(), (x, w)), torch.autograd.grad(exact.sum(), wide)
    for v, gradient, truth in zip((x, w), gradients, expected, strict=True):
        assert gradient.dtype == v.dtype
        assert relative(gradient, truth) < max(1e-5, torch.finfo(v.dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (3,), (1, 3), ()])
def test_gradients_of_some_inputs_alone(backend, needed):
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    inputs = [*layers(20, (4, 3)), columns(20), bandwidth]

    def forms(x, y, w, bandwidth):
        return fastmmd.kernel_forms([x, y], [FIXED, Gaussian(bandwidth)], w, backend=backend).square().sum()

    full = torch.autograd.grad(forms(*inputs), inputs)
    value = forms(*[x if i in needed else x.detach() for i, x in enumerate(inputs)])
    assert value.requires_grad == bool(needed)
    if needed:
        gradients = torch.autograd.grad(value, [inputs[i] for i in needed])
        torch.testing.assert_close(gradients, tuple(full[i] for i in needed), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [True, False])
def test_second_derivatives(backend, diagonal):
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def forms(x, w, bandwidth):
        return fastmmd.kernel_forms([x], [Gaussian(bandwidth, (1, 3))], w, diagonal=diagonal, backend=backend)

    assert torch.autograd.gradgradcheck(forms, (*layers(5, (3,)), columns(5, 2), bandwidth))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("needed", [(0,), (1,)], ids=["features", "W"])
def test_second_derivatives_of_one_input_alone(backend, needed):
    """``create_graph`` where only features, or only W, need a gradient; the mixed derivative too."""
    inputs = [*layers(9, (4,)), columns(9)]

    def penalty(name):
        forms = fastmmd.kernel_forms(inputs[:1], [FIXED], inputs[1], backend=name)
        first = torch.autograd.grad(forms.square().sum(), [inputs[i] for i in needed], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    torch.testing.assert_close(penalty(backend), penalty("reference"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jacobians_of_all_forms(backend):
    (x,), w = layers(9, (4,)), columns(9)

    def forms(x, w):
        return fastmmd.kernel_forms([x], [FIXED], w, backend=backend)

    exact = torch.func.jacrev(lambda x, w: dense([x], [FIXED], w), argnums=(0, 1))(x, w)
    torch.testing.assert_close(torch.func.jacrev(forms, argnums=(0, 1))(x, w), exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.autograd.functional.jacobian(forms, (x, w)), exact, rtol=1e-9, atol=1e-12)
    values, one_hot = forms(x, w), torch.eye(3, dtype=torch.float64)
    for variable, jacobian in zip((x, w), exact, strict=True):
        rows = torch.vmap(lambda v, to=variable: torch.autograd.grad(values, to, v, retain_graph=True)[0])(one_hot)
        torch.testing.assert_close(rows, jacobian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_features_batched_by_autograd_itself_are_refused_in_our_words(backend):
    (x,), w = layers(9, (4,)), columns(9)
    forms, one_hot = fastmmd.kernel_forms([x], [FIXED], w, backend=backend), torch.eye(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"is_grads_batched.*torch.vmap.*backend='reference'"):
        torch.autograd.grad(forms, x, one_hot, is_grads_batched=True)
    alone = fastmmd.kernel_forms([x.detach()], [FIXED], w, backend=backend)
    (jacobian,) = torch.autograd.grad(alone, w, one_hot, is_grads_batched=True)
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda w: dense([x], [FIXED], w))(w))


# What must hold of any quadratic form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", RULES.values(), ids=RULES.keys())
def test_columns_of_plus_and_minus_one_over_n_are_the_mmd(backend, kernel):
    source, target = layers(9, (4,), 0)[0], layers(7, (4,), 1, 0.5)[0]
    w = torch.tensor([1 / 9] * 9 + [-1 / 7] * 7, dtype=torch.float64)[:, None]
    forms = fastmmd.kernel_forms([torch.cat([source, target])], [kernel], w, backend=backend)
    plain = fastmmd.mmd(source, target, kernel, backend=backend)
    torch.testing.assert_close(forms[0], plain, rtol=1e-10, atol=1e-14)
    gradients = [torch.autograd.grad(value, (source, target)) for value in (forms[0], plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutations_of_the_labels_of_two_samples(backend):
    rows = layers(40, (4, 3))
    labels = torch.stack([torch.randperm(40) < 25 for _ in range(50)], 1)
    w = labels.double() / 25 - (~labels).double() / 15
    values = fastmmd.kernel_forms(rows, (FIXED, Gaussian(1.68, (1,))), w, backend=backend)
    for column in (0, 23, 49):
        sides = [[x[labels[:, column] == side] for x in rows] for side in (True, False)]
        expected = fastmmd.jmmd(*sides, (FIXED, Gaussian(1.68, (1,))), backend=backend)
        torch.testing.assert_close(values[column], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [True, False])
@settings(max_examples=10)
@given(n=st.integers(2, 40), count=st.integers(1, 9), factor=st.floats(-30, 30), seed=st.integers(0, 99))
def test_forms_are_quadratic_and_columns_are_apart(backend, diagonal, n, count, factor, seed):
    rows, w = layers(n, (5,), seed), columns(n, count, seed).detach()
    options = {"diagonal": diagonal, "backend": backend}
    forms = fastmmd.kernel_forms(rows, [FIXED], w, **options)
    scale = forms.abs().max().item() + 1
    scaled = fastmmd.kernel_forms(rows, [FIXED], factor * w, **options)
    torch.testing.assert_close(scaled, factor**2 * forms, rtol=1e-9, atol=1e-300 + 1e-11 * scale * factor**2)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fastmmd.kernel_forms(rows, [FIXED], w[:, order], **options), forms[order])
    alone = [fastmmd.kernel_forms(rows, [FIXED], w[:, p : p + 1], **options)[0] for p in range(count)]
    torch.testing.assert_close(torch.stack(alone), forms, rtol=1e-9, atol=1e-300 + 1e-11 * scale)
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = fastmmd.kernel_forms([x[shuffle] for x in rows], [FIXED], w[shuffle], **options)
    torch.testing.assert_close(shuffled, forms, rtol=1e-9, atol=1e-300 + 1e-11 * scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [True, False])
def test_a_column_of_zeros_is_zero_with_gradient_zero(backend, diagonal):
    (x,), w = layers(12, (4,)), torch.zeros(12, 2, dtype=torch.float64, requires_grad=True)
    forms = fastmmd.kernel_forms([x], [FIXED], w, diagonal=diagonal, backend=backend)
    assert not forms.any()
    assert not any(g.any() for g in torch.autograd.grad(forms.sum(), (x, w)))
    both = torch.cat([columns(12, 1).detach(), w], 1)
    alone = fastmmd.kernel_forms([x], [FIXED], both[:, :1], diagonal=diagonal, backend=backend)
    torch.testing.assert_close(fastmmd.kernel_forms([x], [FIXED], both, diagonal=diagonal, backend=backend)[:1], alone)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernels", [(FIXED,), (FIXED, Gaussian(1.68, (1,), (3.0,)))], ids=["layer", "layers"])
def test_the_diagonal_counts_k_of_zero_for_each_square(backend, kernels):
    rows, w = layers(12, (4, 3)[: len(kernels)]), columns()
    with_diagonal, without = (
        fastmmd.kernel_forms(rows, kernels, w, diagonal=diagonal, backend=backend) for diagonal in (True, False)
    )
    kappa = 3.0 if len(kernels) == 1 else 9.0
    torch.testing.assert_close(with_diagonal - without, kappa * w.square().sum(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_the_diagonal_it_is_the_unbiased_mmd(backend):
    source, target = layers(9, (4,), 0)[0], layers(7, (4,), 1, 0.5)[0]
    indicators = torch.zeros(16, 2, dtype=torch.float64)
    indicators[:9, 0] = indicators[9:, 1] = 1
    w = torch.cat([indicators, indicators.sum(1, keepdim=True)], 1)  # the third form has the cross term twice
    rows = [torch.cat([source, target])]
    ss, tt, both = fastmmd.kernel_forms(rows, [FIXED], w, diagonal=False, backend=backend)
    loss = ss / (9 * 8) + tt / (7 * 6) - (both - ss - tt) / (9 * 7)
    torch.testing.assert_close(loss, fastmmd.mmd(source, target, FIXED, estimator="unbiased", backend=backend))


# Numbers at the edge of their range -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-15, 1e15])
def test_fp64_weights_of_any_size(backend, scale):
    (x,), w = layers(12, (4,)), columns()
    mixed = torch.cat([w.detach(), scale * w.detach()], 1).requires_grad_()
    forms = fastmmd.kernel_forms([x], [FIXED], mixed, backend=backend)
    exact = dense([x], [FIXED], mixed)
    torch.testing.assert_close(forms / exact, torch.ones(6, dtype=torch.float64), rtol=1e-9, atol=0)
    gradient, truth = (torch.autograd.grad(value.sum(), mixed)[0] for value in (forms, exact))
    torch.testing.assert_close(gradient / truth, torch.ones_like(truth), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_beyond_fp32_of_huge_weights_are_infinite_not_wrong(backend):
    (x,), w = layers(12, (4,), dtype=torch.float32), torch.full((12, 1), 1e30)
    forms = fastmmd.kernel_forms([x], [FIXED], torch.cat([w, 1e-30 * w], 1), backend=backend)
    assert forms[0] == torch.inf
    assert relative(forms[1], dense([x], [FIXED], 1e-30 * w)[0]) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_constant_features_give_the_square_of_the_sum(backend, dtype, rule):
    x, w = torch.full((12, 7), 0.1, dtype=dtype, requires_grad=True), columns()
    forms = fastmmd.kernel_forms([x], [RULES[rule]], w, backend=backend)
    kappa = sum(RULES[rule].weights)
    torch.testing.assert_close(forms.double(), kappa * w.sum(0).square(), rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(forms.sum(), x)[0].abs().max() <= 1e-4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_row_reaches_forms_and_gradients(backend, value, diagonal, rule):
    (x,), w = layers(12, (4,), dtype=torch.float32), columns(dtype=torch.float32)
    with torch.no_grad():
        x[5, 1] = value
    forms = fastmmd.kernel_forms([x], [RULES[rule]], w, diagonal=diagonal, backend=backend)
    finite = rule == "number" and value == float("inf")  # an infinite distance has the kernel 0, but not its gradient
    assert finite or forms.isnan().all()
    gradients = torch.autograd.grad(forms.sum(), (x, w))
    assert gradients[0].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_weight_reaches_its_form(backend, value):
    (x,), w = layers(12, (4,), dtype=torch.float32), columns(dtype=torch.float32)
    with torch.no_grad():
        w[5, 1] = value
    forms = fastmmd.kernel_forms([x], [FIXED], w, backend=backend)
    assert forms[1].isnan() or forms[1] == torch.inf
    assert torch.autograd.grad(forms.sum(), x)[0].isnan().any()


# What is refused ------------------------------------------------------------------------------------------------------

X, W = torch.randn(6, 3), torch.randn(6, 2)
REFUSED = {
    "a list": ({"w": [1.0]}, TypeError, "w: expected a tensor, got list"),
    "a vector": ({"w": W[:, 0]}, ValueError, r"w: .*\[6, P\].*\(6,\)"),
    "transposed": ({"w": W.T}, ValueError, r"w: .*\[6, P\].*\(2, 6\)"),
    "no columns": ({"w": W[:, :0]}, ValueError, r"w: .*\[6, P\].*\(6, 0\)"),
    "integers": ({"w": W.long()}, ValueError, "w: .*floating-point.*int64"),
    "complex": ({"w": W + 0j}, ValueError, "w: .*floating-point.*complex64"),
    "elsewhere": ({"w": W.to("meta")}, ValueError, "w: .*cpu.*meta"),
    "one tensor": ({"layers": X}, TypeError, "layers: .*sequence.*Tensor"),
    "no layers": ({"layers": []}, ValueError, "layers: .*1 to 8, got 0"),
    "one row": ({"layers": [X[:1]], "w": W[:1]}, ValueError, "layers: .*at least 2 rows, got 1"),
    "integer layers": ({"layers": [X.long()]}, TypeError, r"layers\[0\]: .*float.*int64"),
    "kernel count": ({"kernels": JAN}, ValueError, "kernels: .*1.*got 2"),
    "one kernel": ({"kernels": Gaussian()}, TypeError, "kernels: .*sequence.*Gaussian"),
    "diagonal": ({"diagonal": 1}, TypeError, "diagonal: .*bool.*1"),
    "precision": ({"precision": "fp8"}, ValueError, "precision: .*ieee.*'fp8'"),
    "backend": ({"backend": "tpu"}, ValueError, "backend: .*'cpu'.*'tpu'"),
    "bandwidth elsewhere": (
        {"kernels": [Gaussian(torch.ones((), device="meta"))]},
        ValueError,
        "bandwidth: .*cpu.*meta",
    ),
    "kernel weights elsewhere": (
        {"kernels": [Gaussian(weights=torch.ones(5, device="meta"))]},
        ValueError,
        "weights: .*cpu.*meta",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_refused_by_name(arguments, kind, message):
    options = {"layers": [X], "kernels": [Gaussian()], "w": W, **arguments}
    with pytest.raises(kind, match=message):
        fastmmd.kernel_forms(options.pop("layers"), options.pop("kernels"), options.pop("w"), **options)
