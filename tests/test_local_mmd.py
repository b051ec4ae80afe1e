"""The local MMD: class by class against a dense kernel matrix, its relations to the plain MMD, what is refused."""

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
    "undetached": Gaussian("mean_all", detach_bandwidth=False),
    "median": Gaussian("median", (0.5, 1)),
    "number": FIXED,
}


def pair(n=9, m=7, dim=4, seed=0, dtype=torch.float64):
    return layers(n, (dim,), seed, dtype=dtype)[0], layers(m, (dim,), seed + 1, 0.5, dtype)[0]


def labels_and_probabilities(n=9, m=7, classes=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(m, classes, generator=generator, dtype=torch.float64)
    return labels, (2 * logits).softmax(1).to(dtype)


def classes_in_common(labels, probabilities, estimator):
    """Those that count."""
    common = []
    for c in range(probabilities.shape[1]):
        rows = (labels == c).sum()
        target_rows = (probabilities[:, c] > 0).sum()
        least = 1 if estimator == "biased" else 2
        if (probabilities.argmax(1) == c).any() and rows >= least and target_rows >= least:
            common.append(c)
    return common


def dense(sources, targets, labels, probabilities, kernels, *, estimator="biased", joint=1.0, marginal=None):
    """A loop over classes."""
    kernel = dense_kernel([torch.cat(sides) for sides in zip(sources, targets, strict=True)], kernels, joint, marginal)
    values = [
        dense_weighted_mmd(kernel, (labels == c).double(), probabilities[:, c], estimator)
        for c in classes_in_common(labels, probabilities, estimator)
    ]
    return torch.stack(values).mean() if values else 0 * kernel.sum()


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20)
@given(
    n=st.sampled_from([2, 3, 17, 31, 33]),
    m=st.sampled_from([2, 5, 31, 33]),
    classes=st.sampled_from([1, 2, 3, 10, 31]),
    dims=st.sampled_from([(5,), (3, 4), (1,), (2, 3, 4)]),
    estimator=st.sampled_from(ESTIMATORS),
    rule=st.sampled_from(list(RULES)),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_of_every_shape(backend, n, m, classes, dims, estimator, rule, seed):
    kernels = [RULES[rule], *[Gaussian(1.68, (1,))] * (len(dims) - 1)]
    sources, targets = layers(n, dims, seed), layers(m, dims, seed + 1, 0.5)
    of_classes = labels_and_probabilities(n, m, classes, seed)
    terms = {"joint": 0.7, "marginal": (0.3, 0.2, 0.0)[: len(dims)], "estimator": estimator}
    loss = fastmmd.lmmd(sources, targets, *of_classes, kernels, backend=backend, **terms)
    exact = dense(sources, targets, *of_classes, kernels, **terms)
    torch.testing.assert_close(loss, exact, rtol=1e-9, atol=1e-13)
    inputs = [*sources, *targets]
    expected = torch.autograd.grad(exact, inputs)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sixty_five_classes_of_many_rows(backend, estimator):
    source, target = pair(129, 97, 5)
    of_classes = labels_and_probabilities(129, 97, 65)
    loss = fastmmd.lmmd(source, target, *of_classes, estimator=estimator, backend=backend)
    exact = dense([source], [target], *of_classes, [Gaussian()], estimator=estimator)
    torch.testing.assert_close(loss, exact, rtol=1e-9, atol=1e-13)
    inputs = (source, target)
    gradients, expected = torch.autograd.grad(loss, inputs), torch.autograd.grad(exact, inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bandwidth_and_kernel_weights_receive_their_gradients(backend, estimator):
    source, target = pair()
    of_classes = labels_and_probabilities()
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    betas = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    kernel = Gaussian(bandwidth, (1, 4), betas)
    loss = fastmmd.lmmd(source, target, *of_classes, kernel, estimator=estimator, backend=backend)
    exact = dense([source], [target], *of_classes, [kernel], estimator=estimator)
    torch.testing.assert_close(loss, exact)
    inputs = (source, target, bandwidth, betas)
    expected = torch.autograd.grad(exact, inputs)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("probabilities_dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_dtype_of_features_and_probabilities(backend, dtype, probabilities_dtype, estimator):
    source, target = pair(40, 33, 6, dtype=dtype)
    labels, probabilities = labels_and_probabilities(40, 33, 5, dtype=probabilities_dtype)
    loss = fastmmd.lmmd(source, target, labels.int(), probabilities, FIXED, estimator=estimator, backend=backend)
    assert loss.dtype == torch.float32
    wide = [x.detach().double().requires_grad_() for x in (source, target)]
    exact = dense(wide[:1], wide[1:], labels, probabilities.double(), [FIXED], estimator=estimator)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)
    gradients, expected = torch.autograd.grad(loss, (source, target)), torch.autograd.grad(exact, wide)
    for gradient, truth in zip(gradients, expected, strict=True):
        assert gradient.dtype == dtype
        assert relative(gradient, truth) < max(1e-5, torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", [(0,), (1,), ()])
def test_one_sided_gradients(backend, needed):
    inputs = pair(40, 33)
    of_classes = labels_and_probabilities(40, 33)
    full = torch.autograd.grad(fastmmd.lmmd(*inputs, *of_classes, backend=backend), inputs)
    some = [x if i in needed else x.detach() for i, x in enumerate(inputs)]
    value = fastmmd.lmmd(*some, *of_classes, backend=backend)
    assert value.requires_grad == bool(needed)
    for i in needed:
        torch.testing.assert_close(torch.autograd.grad(value, inputs[i])[0], full[i], rtol=1e-12, atol=1e-16)


def test_labels_and_probabilities_count_as_constants():
    source, target = pair()
    labels, probabilities = labels_and_probabilities()
    logits = probabilities.log().requires_grad_()
    loss = fastmmd.lmmd(source, target, labels, logits.softmax(1))
    assert torch.autograd.grad(loss, (source, logits), allow_unused=True)[1] is None
    with torch.no_grad():
        assert not fastmmd.lmmd(source, target, labels, logits.softmax(1)).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_second_derivatives(backend, estimator):
    source, target = pair(5, 4, 3)
    of_classes = labels_and_probabilities(5, 4, 2)
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(source, target, bandwidth):
        return fastmmd.lmmd(source, target, *of_classes, Gaussian(bandwidth), estimator=estimator, backend=backend)

    assert torch.autograd.gradgradcheck(loss, (source, target, bandwidth))


# Relations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", RULES.values(), ids=RULES.keys())
def test_one_class_is_the_mmd(backend, estimator, kernel):
    source, target = pair()
    options = {"estimator": estimator, "backend": backend}
    labels, probabilities = torch.zeros(9, dtype=torch.int64), torch.ones(7, 1)
    local = fastmmd.lmmd(source, target, labels, probabilities, kernel, **options)
    plain = fastmmd.mmd(source, target, kernel, **options)
    torch.testing.assert_close(local, plain, rtol=1e-10, atol=1e-14)
    inputs = (source, target)
    gradients, expected = torch.autograd.grad(local, inputs), torch.autograd.grad(plain, inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_class_of_soft_labels_is_the_weighted_mmd(backend, estimator):
    source, target = pair()
    weights = torch.rand(7) + 0.1
    options = {"estimator": estimator, "backend": backend}
    local = fastmmd.lmmd(source, target, torch.zeros(9, dtype=torch.int64), weights[:, None], **options)
    torch.testing.assert_close(local, fastmmd.mmd(source, target, target_weights=weights, **options))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(
    n=st.integers(4, 40),
    m=st.integers(4, 40),
    classes=st.integers(1, 6),
    seed=st.integers(0, 99),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_hard_labels_are_the_mean_over_classes_of_the_mmd_of_their_rows(backend, n, m, classes, seed, estimator):
    source, target = pair(n, m, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels, predicted = (torch.randint(classes, (rows,), generator=generator) for rows in (n, m))
    options = {"estimator": estimator, "backend": backend}
    hard = nn.functional.one_hot(predicted, classes).double()
    local = fastmmd.lmmd(source, target, labels, hard, FIXED, **options)
    common = classes_in_common(labels, hard, estimator)
    values = [fastmmd.mmd(source[labels == c], target[predicted == c], FIXED, **options) for c in common]
    expected = torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(local, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=8)
@given(seed=st.integers(0, 99))
def test_order_of_rows_and_names_of_classes_change_nothing(backend, estimator, seed):
    source, target = pair(20, 17, seed=seed)
    labels, probabilities = labels_and_probabilities(20, 17, 4, seed)
    options = {"estimator": estimator, "backend": backend}
    local = fastmmd.lmmd(source, target, labels, probabilities, **options)
    (gradient,) = torch.autograd.grad(local, source, retain_graph=True)
    rows, columns = torch.randperm(20), torch.randperm(17)
    shuffled = fastmmd.lmmd(source[rows], target[columns], labels[rows], probabilities[columns], **options)
    torch.testing.assert_close(shuffled, local, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(shuffled, source)[0], gradient, rtol=1e-9, atol=1e-14)
    names = torch.randperm(4)
    renamed = fastmmd.lmmd(source, target, names[labels], probabilities[:, names.argsort()], **options)
    torch.testing.assert_close(renamed, local, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_classes_that_one_side_lacks_do_not_count(backend, estimator):
    """Class 2 has no label, class 3 is nowhere the most probable, class 4 has neither."""
    source, target = pair(9, 8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 3, 3, 3])
    probabilities = torch.full((8, 5), 0.1, dtype=torch.float64)
    probabilities[range(8), [0, 0, 1, 1, 1, 2, 2, 2]] = 0.6
    options = {"estimator": estimator, "backend": backend}
    local = fastmmd.lmmd(source, target, labels, probabilities, FIXED, **options)
    expected = [
        fastmmd.mmd(source[labels == c], target, FIXED, target_weights=probabilities[:, c], **options) for c in (0, 1)
    ]
    torch.testing.assert_close(local, torch.stack(expected).mean())
    assert not torch.autograd.grad(local, source)[0][6:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("rule", ["mean", "undetached", "number"])
def test_no_class_in_common_is_zero_with_gradient_zero(backend, estimator, rule):
    source, target = pair()
    labels, probabilities = torch.zeros(9, dtype=torch.int64), torch.eye(3, dtype=torch.float64)[[1, 2, 1, 2, 1, 2, 1]]
    loss = fastmmd.lmmd(source, target, labels, probabilities, RULES[rule], estimator=estimator, backend=backend)
    assert loss.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, (source, target)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbiased_leaves_out_classes_of_one_row(backend):
    """A single row on either side, by its label or because all its class's probability lies on it."""
    source, target = pair(8, 8)
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    hard = torch.eye(3, dtype=torch.float64)[[0, 0, 0, 1, 1, 1, 1, 2]]
    options = {"estimator": "unbiased", "backend": backend}
    loss = fastmmd.lmmd(source, target, labels, hard, FIXED, **options)
    torch.testing.assert_close(loss, fastmmd.mmd(source[:3], target[:3], FIXED, **options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_labels_of_every_integer_type(backend, dtype):
    source, target = pair()
    labels, probabilities = labels_and_probabilities()
    value = fastmmd.lmmd(source, target, labels.to(dtype), probabilities, backend=backend)
    assert torch.equal(value, fastmmd.lmmd(source, target, labels, probabilities, backend=backend))


# Numbers at the edge of their range -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_constant_features_give_zero_not_nan(backend, estimator, dtype):
    source, target = (torch.full((12, 7), 0.1, dtype=dtype, requires_grad=True) for _ in range(2))
    of_classes = labels_and_probabilities(12, 12)
    loss = fastmmd.lmmd(source, target, *of_classes, estimator=estimator, backend=backend)
    assert abs(loss.item()) <= 20 * torch.finfo(loss.dtype).eps
    assert not any(g.any() for g in torch.autograd.grad(loss, (source, target)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("place", ["features", "probabilities", "all probabilities"])
def test_nan_reaches_the_loss_and_its_gradient(backend, estimator, place):
    source, target = pair(dtype=torch.float32)
    labels, probabilities = labels_and_probabilities()
    with torch.no_grad():
        broken = {"features": source[3:4, 1:2], "probabilities": probabilities[2:3, :1]}
        broken.get(place, probabilities).fill_(torch.nan)
    loss = fastmmd.lmmd(source, target, labels, probabilities, estimator=estimator, backend=backend)
    assert loss.isnan()
    assert all(g.isnan().any() for g in torch.autograd.grad(loss, (source, target)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_classs_probabilities_changes_nothing(backend, scale):
    """Each class's column is divided by its sum, however small."""
    source, target = pair(9, 8)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])
    probabilities = torch.rand(8, 1, dtype=torch.float64) + 0.1
    other = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 0, 1, 1, 1, 1]]
    before = fastmmd.lmmd(source, target, labels, probabilities * other, FIXED, backend=backend)
    after = fastmmd.lmmd(source, target, labels, probabilities * other * scale, FIXED, backend=backend)
    torch.testing.assert_close(after, before)


# What is refused ------------------------------------------------------------------------------------------------------

X = torch.randn(6, 3)
LABELS, PROBABILITIES = torch.tensor([0, 1, 2, 0, 1, 2]), torch.full((6, 3), 1 / 3)
REFUSED = {
    "label too large": ({"labels": LABELS + 1}, ValueError, r"source_labels: .*0 \.\. 2, got 3"),
    "negative label": ({"labels": LABELS - 1}, ValueError, r"source_labels: .*0 \.\. 2, got -1"),
    "labels of floats": ({"labels": LABELS.float()}, ValueError, "source_labels: .*int64.*float32"),
    "labels of booleans": ({"labels": LABELS.bool()}, ValueError, "source_labels: .*int64.*bool"),
    "labels of uint16": ({"labels": LABELS.to(torch.uint16)}, ValueError, "source_labels: .*int64.*uint16"),
    "one-hot labels": ({"labels": torch.eye(3).long()[LABELS]}, ValueError, r"source_labels: .*\(6,\).*\(6, 3\)"),
    "too few labels": ({"labels": LABELS[:5]}, ValueError, r"source_labels: .*\(6,\).*\(5,\)"),
    "labels in a list": ({"labels": LABELS.tolist()}, TypeError, "source_labels: expected a tensor, got list"),
    "labels elsewhere": ({"labels": LABELS.to("meta")}, ValueError, "source_labels: .*cpu.*meta"),
    "hard predictions": ({"probabilities": LABELS}, ValueError, r"target_probabilities: .*\[6, classes\].*\(6,\)"),
    "integers": ({"probabilities": torch.eye(3).long()[LABELS]}, ValueError, "target_probabilities: .*floating.*int64"),
    "too few rows": ({"probabilities": PROBABILITIES[:5]}, ValueError, r"target_probabilities: .*\[6, classes\]"),
    "no classes": ({"probabilities": PROBABILITIES[:, :0]}, ValueError, r"target_probabilities: .*\(6, 0\)"),
    "logits": ({"probabilities": -PROBABILITIES}, ValueError, "target_probabilities: .*non-negative.*logits.*-0.33"),
    "a list": ({"probabilities": [1.0]}, TypeError, "target_probabilities: expected a tensor, got list"),
    "elsewhere": ({"probabilities": PROBABILITIES.to("meta")}, ValueError, "target_probabilities: .*cpu.*meta"),
    "kernels for a tensor": ({"kernel": JAN}, ValueError, "kernels: expected 1, one per layer, got 2"),
    "linear": ({"estimator": "linear"}, ValueError, "estimator: .*'biased' or 'unbiased', got 'linear'"),
    "circular": ({"estimator": "circular"}, ValueError, "estimator: .*'biased' or 'unbiased', got 'circular'"),
    "unknown": ({"estimator": "v"}, ValueError, "estimator: .*biased.*'v'"),
    "marginal": ({"marginal": (1.0, 2.0)}, ValueError, "marginal: .*1 numbers.*got 2"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_refused_by_name(arguments, kind, message):
    usual = {"labels": LABELS, "probabilities": PROBABILITIES}
    options = {**usual, **arguments}
    labels, probabilities = options.pop("labels"), options.pop("probabilities")
    with pytest.raises(kind, match=message):
        fastmmd.lmmd(X, X, labels, probabilities, **options)


def test_a_single_row_has_no_unbiased_estimate():
    with pytest.raises(ValueError, match=r"sources.*'unbiased'.*at least 2"):
        fastmmd.lmmd(X[:1], X, LABELS[:1], PROBABILITIES, estimator="unbiased")


# The module -----------------------------------------------------------------------------------------------------------


def test_the_module_is_the_function_with_its_options():
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    of_classes = labels_and_probabilities()
    for estimator in ESTIMATORS:
        module = fastmmd.LMMDLoss(3, FIXED, estimator=estimator)
        expected = fastmmd.lmmd(sources[0], targets[0], *of_classes, FIXED, estimator=estimator)
        assert torch.equal(module(sources[0], targets[0], *of_classes), expected)
        assert torch.equal(module(sources[:1], targets[:1], *of_classes), expected)
        several = fastmmd.LMMDLoss(3, JAN, joint=0.2, marginal=(0.3, 0.1), estimator=estimator)
        options = {"joint": 0.2, "marginal": (0.3, 0.1), "estimator": estimator}
        assert torch.equal(
            several(sources, targets, *of_classes), fastmmd.lmmd(sources, targets, *of_classes, JAN, **options)
        )


def test_the_module_copies_pickles_and_shows_its_options():
    sources, targets = layers(9, (4, 3), 0), layers(7, (4, 3), 1, 0.5)
    of_classes = labels_and_probabilities()
    module = fastmmd.LMMDLoss(3, JAN, joint=0.5, marginal=(0.3, 0.1), estimator="unbiased", backend="torch")
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(sources, targets, *of_classes), module(sources, targets, *of_classes))
    assert not module.state_dict()
    shown = repr(module)
    assert shown.startswith("LMMDLoss(3, joint=0.5, marginal=(0.3, 0.1), Gaussian(), Gaussian(1.68, (1.0,)),")
    assert "estimator='unbiased', backend='torch'" in shown


def test_a_learned_bandwidth_is_a_parameter_of_the_module():
    module = fastmmd.LMMDLoss(3, Gaussian(nn.Parameter(torch.tensor(2.0)), weights=nn.Parameter(torch.ones(5))))
    assert set(module.state_dict()) == {"bandwidth0", "weights0"}
    source, target = pair(12, 10, dtype=torch.float32)
    of_classes = labels_and_probabilities(12, 10)
    before = module(source, target, *of_classes)
    before.backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert module(source, target, *of_classes) < before
    module.load_state_dict({"bandwidth0": torch.tensor(3.0), "weights0": torch.ones(5)})
    expected = fastmmd.lmmd(source, target, *of_classes, Gaussian(3.0))
    torch.testing.assert_close(module(source, target, *of_classes), expected)


MODULE_REFUSED = {
    "no classes": (lambda: fastmmd.LMMDLoss(0), ValueError, "num_classes: .*positive integer, got 0"),
    "classes of a float": (lambda: fastmmd.LMMDLoss(3.0), ValueError, "num_classes: .*positive integer, got 3.0"),
    "a bool": (lambda: fastmmd.LMMDLoss(True), ValueError, "num_classes: .*positive integer, got True"),
    "linear": (lambda: fastmmd.LMMDLoss(3, estimator="linear"), ValueError, "estimator: .*'linear'"),
    "marginal": (lambda: fastmmd.LMMDLoss(3, marginal=(1, 2)), ValueError, "marginal: .*1 numbers"),
    "kernel": (lambda: fastmmd.LMMDLoss(3, "median"), TypeError, r"kernels?.*Gaussian.*str"),
    "width": (lambda: fastmmd.LMMDLoss(4)(X, X, LABELS, PROBABILITIES), ValueError, r"\[n_t, 4\].*\(6, 3\)"),
    "hard predictions": (lambda: fastmmd.LMMDLoss(3)(X, X, LABELS, LABELS), ValueError, r"\[n_t, 3\].*\(6,\)"),
    "a list": (lambda: fastmmd.LMMDLoss(3)(X, X, LABELS, [1.0]), TypeError, "target_probabilities: .*list"),
    "two kernels for one tensor": (
        lambda: fastmmd.LMMDLoss(3, JAN)(X, X, LABELS, PROBABILITIES),
        ValueError,
        "kernels: expected 1, one per layer, got 2",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), MODULE_REFUSED.values(), ids=MODULE_REFUSED.keys())
def test_the_module_refuses_by_name(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
