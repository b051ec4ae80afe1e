"""All pairs of groups: against a loop over pairs of one dense kernel matrix, relations to the plain MMD, edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def rows_and_groups(n=12, dims=(4,), count=3, seed=0, dtype=torch.float64):
    """Groups of uneven sizes in no order, each around another centre."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(count, (n,), generator=generator)
    shifts = torch.randn(count, generator=generator, dtype=torch.float64)[groups, None]
    rows = [(x.detach() + shifts).to(dtype).requires_grad_() for x in layers(n, dims, seed)]
    return rows, groups


def symmetric(count, seed=0):
    x = torch.randn(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + x.T


def dense(kernel, groups, count, estimator="biased"):
    """``[G, G]``: a loop over pairs, NaN where a group has too few rows."""
    least = 1 if estimator == "biased" else 2
    rows = [(groups == g).nonzero()[:, 0] for g in range(count)]
    values = torch.full((count, count), torch.nan, dtype=torch.float64).fill_diagonal_(0)
    for g in range(count):
        for h in range(g):
            if min(len(rows[g]), len(rows[h])) >= least:
                both = torch.cat([rows[g], rows[h]])
                sides = [torch.ones(len(rows[group])) for group in (g, h)]
                value = dense_weighted_mmd(kernel[both][:, both], *sides, estimator)
                values = values.index_put((torch.tensor([g, h]), torch.tensor([h, g])), value)
    return values


def dense_loss(values, pair_weights=None):
    above = torch.ones_like(values).triu(1) > 0
    counted = values[above & ~values.isnan()]
    if pair_weights is not None:
        return (counted * pair_weights[above & ~values.isnan()]).sum()
    return counted.mean() if len(counted) else 0 * values.nansum()


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20)
@given(
    n=st.sampled_from([2, 3, 17, 31, 33]),
    count=st.sampled_from([1, 2, 3, 6, 10]),
    dims=st.sampled_from([(5,), (3, 4), (1,), (2, 3, 4)]),
    estimator=st.sampled_from(ESTIMATORS),
    rule=st.sampled_from(list(RULES)),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_of_every_shape(backend, n, count, dims, estimator, rule, weighted, seed):
    """Groups without rows are among them."""
    kernels = [RULES[rule], *[Gaussian(1.68, (1,))] * (len(dims) - 1)]
    rows, groups = rows_and_groups(n, dims, count, seed)
    pair_weights = symmetric(count, seed) if weighted else None
    result = fastmmd.pairwise_mmd(
        rows, groups, kernels, pair_weights=pair_weights, num_groups=count, estimator=estimator, backend=backend
    )
    values = dense(dense_kernel(rows, kernels), groups, count, estimator)
    exact = dense_loss(values, pair_weights)
    torch.testing.assert_close(result.values, values.detach(), rtol=1e-9, atol=1e-13, equal_nan=True)
    torch.testing.assert_close(result.loss, exact, rtol=1e-9, atol=1e-13)
    gradients = torch.autograd.grad(result.loss, rows)
    expected = torch.autograd.grad(exact, rows) if exact.requires_grad else tuple(map(torch.zeros_like, rows))
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "dims", "count"), [(257, (9, 5), 4), (33, (2,) * 8, 3)])
def test_value_and_gradients_of_many_rows_and_layers(backend, estimator, n, dims, count):
    kernels = [Gaussian(), *[Gaussian(1.5, (1, 2))] * (len(dims) - 1)]
    rows, groups = rows_and_groups(n, dims, count)
    result = fastmmd.pairwise_mmd(rows, groups, kernels, estimator=estimator, backend=backend)
    values = dense(dense_kernel(rows, kernels), groups, count, estimator)
    torch.testing.assert_close(result.values, values.detach(), rtol=1e-9, atol=1e-13)
    gradients, expected = torch.autograd.grad(result.loss, rows), torch.autograd.grad(dense_loss(values), rows)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(result.bandwidths[1:], torch.full((len(dims) - 1,), 1.5, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bandwidth_and_weights_receive_their_gradients(backend, estimator):
    """The gradient in a symmetric matrix is symmetric: half of a pair's value in each of its two places."""
    rows, groups = rows_and_groups()
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    betas = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    pair_weights = symmetric(3).requires_grad_()
    kernels = [Gaussian(bandwidth, (1, 4), betas)]
    result = fastmmd.pairwise_mmd(
        rows, groups, kernels, pair_weights=pair_weights, estimator=estimator, backend=backend
    )
    values = dense(dense_kernel(rows, kernels), groups, 3, estimator)
    exact = dense_loss(values, pair_weights)
    torch.testing.assert_close(result.loss, exact)
    torch.testing.assert_close(result.values, values.detach())
    *gradients, of_weights = torch.autograd.grad(result.loss, (*rows, bandwidth, betas, pair_weights))
    expected = torch.autograd.grad(exact, (*rows, bandwidth, betas))
    torch.testing.assert_close(tuple(gradients), expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(of_weights, values.detach() / 2)


@pytest.mark.parametrize("backend", FAST)
def test_learned_pair_weights_stay_symmetric(backend):
    rows, groups = rows_and_groups(40, dtype=torch.float32)
    pair_weights = torch.ones(3, 3, requires_grad=True)
    for _ in range(3):
        result = fastmmd.pairwise_mmd(rows, groups, [FIXED], pair_weights=pair_weights, backend=backend)
        step = torch.autograd.grad(result.loss, pair_weights)[0]
        pair_weights = (pair_weights - 0.3 * step).detach().requires_grad_()
    assert torch.equal(pair_weights, pair_weights.T)
    assert not torch.equal(pair_weights, torch.ones(3, 3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_dtype_of_features(backend, dtype, estimator):
    rows, groups = rows_and_groups(73, (6,), dtype=dtype)
    weights = symmetric(3)
    result = fastmmd.pairwise_mmd(
        rows, groups, [FIXED], pair_weights=weights.half(), estimator=estimator, backend=backend
    )
    assert {x.dtype for x in result} == {torch.float32}
    wide = [x.detach().double().requires_grad_() for x in rows]
    values = dense(dense_kernel(wide, [FIXED]), groups, 3, estimator)
    torch.testing.assert_close(result.values.double(), values.detach(), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(result.loss, rows)
    (truth,) = torch.autograd.grad(dense_loss(values, weights.half().double()), wide)
    assert gradient.dtype == dtype
    assert relative(gradient, truth) < max(1e-5, torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_layer_alone_may_need_a_gradient(backend):
    rows, groups = rows_and_groups(20, (4, 3))
    full = torch.autograd.grad(fastmmd.pairwise_mmd(rows, groups, JAN, backend=backend).loss, rows)
    for needed in range(2):
        some = [x if i == needed else x.detach() for i, x in enumerate(rows)]
        result = fastmmd.pairwise_mmd(some, groups, JAN, backend=backend)
        torch.testing.assert_close(torch.autograd.grad(result.loss, rows[needed])[0], full[needed])
        assert not (result.values.requires_grad or result.bandwidths.requires_grad)
    nothing = fastmmd.pairwise_mmd([x.detach() for x in rows], groups, JAN, backend=backend)
    assert not nothing.loss.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_second_derivatives(backend, estimator):
    rows, _ = rows_and_groups(6, (3,))
    groups = torch.tensor([0, 1, 2, 2, 1, 0])
    bandwidth = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(x, bandwidth, half):
        return fastmmd.pairwise_mmd(
            [x], groups, [Gaussian(bandwidth)], pair_weights=half + half.T, estimator=estimator, backend=backend
        ).loss

    assert torch.autograd.gradgradcheck(loss, (*rows, bandwidth, symmetric(3).requires_grad_()))


# Relations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", RULES.values(), ids=RULES.keys())
def test_two_groups_are_source_and_target(backend, estimator, kernel):
    source, target = layers(9, (4,), 0)[0], layers(7, (4,), 1, 0.5)[0]
    groups = torch.tensor([0] * 9 + [1] * 7)
    options = {"estimator": estimator, "backend": backend}
    result = fastmmd.pairwise_mmd([torch.cat([source, target])], groups, [kernel], **options)
    plain = fastmmd.discrepancy([source], [target], [kernel], **options)
    torch.testing.assert_close(result.loss, plain.loss, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(result.values[0, 1], plain.loss.detach(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(result.bandwidths, plain.bandwidths)
    gradients = [torch.autograd.grad(loss, (source, target)) for loss in (result.loss, plain.loss)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_are_the_joint_mmd_of_each_pair(backend, estimator):
    rows, groups = rows_and_groups(40, (4, 3))
    kernels = (FIXED, Gaussian(1.68, (1,)))
    options = {"estimator": estimator, "backend": backend}
    values = fastmmd.pairwise_mmd(rows, groups, kernels, **options).values
    for g in range(3):
        for h in range(3):
            sides = [[x[groups == group] for x in rows] for group in (g, h)]
            expected = fastmmd.jmmd(*sides, kernels, **options) if g != h else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(values[g, h], expected.detach(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=8)
@given(n=st.integers(8, 60), count=st.integers(2, 6), seed=st.integers(0, 99))
def test_order_of_rows_and_names_of_groups(backend, estimator, n, count, seed):
    rows, groups = rows_and_groups(n, (4,), count, seed)
    options = {"num_groups": count, "estimator": estimator, "backend": backend}
    before = fastmmd.pairwise_mmd(rows, groups, **options)
    (gradient,) = torch.autograd.grad(before.loss, rows)
    generator = torch.Generator().manual_seed(seed)
    order, names = torch.randperm(n, generator=generator), torch.randperm(count, generator=generator)
    after = fastmmd.pairwise_mmd([x[order] for x in rows], names[groups[order]], **options)
    close = {"rtol": 1e-9, "atol": 1e-13, "equal_nan": True}
    torch.testing.assert_close(after.values[names][:, names], before.values, **close)
    torch.testing.assert_close(after.loss, before.loss, **close)
    torch.testing.assert_close(torch.autograd.grad(after.loss, rows)[0], gradient, **close)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pair_weights_choose_pairs(backend):
    rows, groups = rows_and_groups(40)
    only = torch.zeros(3, 3)
    only[0, 2] = only[2, 0] = 1
    options = {"backend": backend}
    chosen = fastmmd.pairwise_mmd(rows, groups, pair_weights=only, **options)
    torch.testing.assert_close(chosen.loss.detach(), chosen.values[0, 2])
    assert not torch.autograd.grad(chosen.loss, rows)[0][groups == 1].any()
    mean = fastmmd.pairwise_mmd(rows, groups, **options)
    thirds = fastmmd.pairwise_mmd(rows, groups, pair_weights=torch.full((3, 3), 1 / 3), **options)
    torch.testing.assert_close(thirds.loss, mean.loss, rtol=1e-6, atol=0)
    negative = fastmmd.pairwise_mmd(rows, groups, pair_weights=-only, **options)  # no clamp hides it
    torch.testing.assert_close(negative.loss, -chosen.loss)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("betas", [(-1.0, -2.0), (1.0, -3.0)])
def test_values_under_negative_kernel_weights(backend, betas):
    rows, groups = rows_and_groups(20, (4,), 2)
    kernel = Gaussian(2.0, (1, 2), torch.tensor(betas, dtype=torch.float64))
    values = fastmmd.pairwise_mmd(rows, groups, [kernel], backend=backend).values
    sides = [rows[0][groups == g] for g in range(2)]
    torch.testing.assert_close(values[0, 1], fastmmd.mmd(*sides, kernel, backend=backend).detach())
    assert values[0, 1] < 0


# Edges ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_group_without_rows_is_left_out(backend, weighted):
    rows, groups = rows_and_groups(30)
    weights = symmetric(5) if weighted else None
    result = fastmmd.pairwise_mmd(rows, 2 * groups, pair_weights=weights, num_groups=5, backend=backend)
    kept = None if weights is None else weights[::2, ::2].contiguous()
    expected = fastmmd.pairwise_mmd(rows, groups, pair_weights=kept, backend=backend)
    torch.testing.assert_close(result.loss, expected.loss)
    torch.testing.assert_close(result.values[::2, ::2], expected.values)
    assert result.values[1::2].isnan().sum() == 2 * 4
    assert result.values[:, 1::2].isnan().sum() == 2 * 4
    assert not result.values.diagonal().any()
    gradients = [torch.autograd.grad(loss, rows) for loss in (result.loss, expected.loss)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbiased_leaves_out_a_group_of_one_row(backend):
    rows, _ = rows_and_groups(9)
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    result = fastmmd.pairwise_mmd(rows, groups, [FIXED], estimator="unbiased", backend=backend)
    assert result.values[1].isnan().tolist() == [True, False, True]
    x = rows[0]
    expected = fastmmd.mmd(x[:3], x[4:], FIXED, estimator="unbiased", backend=backend)
    torch.testing.assert_close(result.loss, expected)
    assert not torch.autograd.grad(result.loss, x)[0][3].any()
    biased = fastmmd.pairwise_mmd(rows, groups, [FIXED], backend=backend)
    assert biased.values.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_row_per_group(backend, estimator):
    rows, _ = rows_and_groups(5)
    result = fastmmd.pairwise_mmd(rows, torch.arange(5), [FIXED], estimator=estimator, backend=backend)
    (gradient,) = torch.autograd.grad(result.loss, rows)
    if estimator == "unbiased":
        assert result.loss.item() == 0
        assert not gradient.any()
        assert result.values.isnan().sum() == 20
    else:
        kernel = dense_kernel(rows, [FIXED]).detach()
        torch.testing.assert_close(result.values, 2 * (3 - kernel), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("num_groups", [None, 1, 4])
@pytest.mark.parametrize("rule", ["mean", "undetached", "number"])
def test_all_rows_in_one_group_are_zero_with_gradient_zero(backend, estimator, num_groups, rule):
    rows, _ = rows_and_groups(9)
    result = fastmmd.pairwise_mmd(
        rows,
        torch.zeros(9, dtype=torch.int64),
        [RULES[rule]],
        num_groups=num_groups,
        estimator=estimator,
        backend=backend,
    )
    assert result.loss.item() == 0
    assert not torch.autograd.grad(result.loss, rows)[0].any()
    count = num_groups or 1
    assert result.values.shape == (count, count)
    assert result.values.isnan().sum() == count * (count - 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_groups_of_every_integer_type(backend, dtype):
    rows, groups = rows_and_groups()
    result = fastmmd.pairwise_mmd(rows, groups.to(dtype), backend=backend)
    expected = fastmmd.pairwise_mmd(rows, groups, num_groups=3, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_constant_features_give_zero_not_nan(backend, estimator, dtype):
    rows = torch.full((12, 7), 0.1, dtype=dtype, requires_grad=True)
    groups = torch.tensor([0, 1, 2, 2, 2, 1, 0, 2, 2, 2, 2, 2])
    result = fastmmd.pairwise_mmd([rows], groups, estimator=estimator, backend=backend)
    epsilon = torch.finfo(result.loss.dtype).eps
    assert abs(result.loss.item()) <= 20 * epsilon
    assert result.values.abs().max() <= 20 * epsilon
    assert not torch.autograd.grad(result.loss, rows)[0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("place", ["features", "pair_weights"])
def test_nan_reaches_the_loss_and_its_gradient(backend, estimator, place):
    rows, _ = rows_and_groups(dtype=torch.float32)
    groups = torch.tensor([0, 1, 2] * 4)
    weights = torch.ones(3, 3)
    with torch.no_grad():
        if place == "features":
            rows[0][4, 1] = torch.nan
        else:
            weights[0, 2] = weights[2, 0] = torch.nan
    result = fastmmd.pairwise_mmd(rows, groups, pair_weights=weights, estimator=estimator, backend=backend)
    assert result.loss.isnan()
    assert torch.autograd.grad(result.loss, rows)[0].isnan().any()
    if place == "features":
        assert result.values[1, [0, 2]].isnan().all()


# What is refused ------------------------------------------------------------------------------------------------------

X, GROUPS = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
REFUSED = {
    "group too large": ({"num_groups": 2}, ValueError, r"groups: .*0 \.\. 1, got 2"),
    "negative group": ({"groups": GROUPS - 1}, ValueError, r"groups: .*0 \.\. 1, got -1"),
    "groups of floats": ({"groups": GROUPS.float()}, ValueError, "groups: .*int64.*float32"),
    "groups of booleans": ({"groups": GROUPS.bool()}, ValueError, "groups: .*int64.*bool"),
    "groups of uint16": ({"groups": GROUPS.to(torch.uint16)}, ValueError, "groups: .*int64.*uint16"),
    "too few groups": ({"groups": GROUPS[:5]}, ValueError, r"groups: .*\(6,\).*\(5,\)"),
    "groups in a list": ({"groups": GROUPS.tolist()}, TypeError, "groups: expected a tensor, got list"),
    "groups elsewhere": ({"groups": GROUPS.to("meta")}, ValueError, "groups: .*cpu.*meta"),
    "no group": ({"num_groups": 0}, ValueError, "num_groups: .*positive integer, got 0"),
    "a float": ({"num_groups": 3.0}, ValueError, "num_groups: .*positive integer, got 3.0"),
    "weights of a list": ({"pair_weights": [[1.0]]}, TypeError, "pair_weights: expected a tensor, got list"),
    "weights not square": ({"pair_weights": torch.ones(3, 2)}, ValueError, r"pair_weights: .*\[G, G\].*\(3, 2\)"),
    "weights in a row": ({"pair_weights": torch.ones(3)}, ValueError, r"pair_weights: .*\[G, G\].*\(3,\)"),
    "weights of integers": ({"pair_weights": torch.ones(3, 3).long()}, ValueError, "pair_weights: .*floating.*int64"),
    "weights elsewhere": ({"pair_weights": torch.ones(3, 3, device="meta")}, ValueError, "pair_weights: .*cpu.*meta"),
    "weights for two": ({"pair_weights": torch.ones(2, 2)}, ValueError, r"groups: .*0 \.\. 1, got 2"),
    "two counts": (
        {"pair_weights": torch.ones(3, 3), "num_groups": 4},
        ValueError,
        r"pair_weights: .*\[4, 4\].*\(3, 3\)",
    ),
    "not symmetric": ({"pair_weights": torch.arange(9.0).view(3, 3)}, ValueError, "pair_weights: .*symmetric"),
    "one tensor": ({"layers": X}, TypeError, "layers: .*sequence.*Tensor"),
    "no layers": ({"layers": []}, ValueError, "layers: .*1 to 8, got 0"),
    "one row": ({"layers": [X[:1]], "groups": GROUPS[:1]}, ValueError, "layers: .*at least 2 rows, got 1"),
    "rows of layers": ({"layers": [X, X[:5]], "kernels": JAN}, ValueError, r"layers\[1\].*6 rows.*got 5"),
    "integer layers": ({"layers": [X.long()]}, TypeError, r"layers\[0\]: .*float.*int64"),
    "kernel count": ({"kernels": JAN}, ValueError, "kernels: .*1.*got 2"),
    "one kernel": ({"kernels": Gaussian()}, TypeError, "kernels: .*sequence.*Gaussian"),
    "linear": ({"estimator": "linear"}, ValueError, "estimator: .*biased.*'linear'"),
    "circular": ({"estimator": "circular"}, ValueError, "estimator: .*biased.*'circular'"),
    "precision": ({"precision": "fp8"}, ValueError, "precision: .*ieee.*'fp8'"),
    "backend": ({"backend": "tpu"}, ValueError, "backend: .*'cpu'.*'tpu'"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_refused_by_name(arguments, kind, message):
    options = {"layers": [X], "groups": GROUPS, **arguments}
    with pytest.raises(kind, match=message):
        fastmmd.pairwise_mmd(options.pop("layers"), options.pop("groups"), **options)


def test_the_number_of_groups_must_be_given_where_they_cannot_be_read():
    with pytest.raises(ValueError, match="num_groups: .*can't be read"):
        torch.vmap(lambda groups: fastmmd.pairwise_mmd([X], groups).loss)(torch.stack([GROUPS, GROUPS]))
    with pytest.raises(ValueError, match="num_groups: .*can't be read"):
        fastmmd.pairwise_mmd([X.to("meta")], GROUPS.to("meta"))
    many = torch.stack([GROUPS, GROUPS.sort().values])
    values = torch.vmap(lambda groups: fastmmd.pairwise_mmd([X], groups, num_groups=3).loss)(many)
    torch.testing.assert_close(values, torch.stack([fastmmd.pairwise_mmd([X], groups).loss for groups in many]))
