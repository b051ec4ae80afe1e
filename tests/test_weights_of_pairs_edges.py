"""Edges of weights of pairs: round-off where kernels are constant, confident probabilities, what counts and what does
not, and derivatives under a graph that nobody differentiates again."""

import numpy as np
import pytest
import torch

import fastmmd
from fastmmd import Gaussian
from fastmmd.backends import reference
from tests.helpers import FAST

SINGLE = Gaussian(2.0, (1,))


@pytest.mark.parametrize("backend", FAST)
def test_constant_features_give_0_whatever_the_weights(backend):
    """Products of equal weights and equal kernels would all be rounded alike."""
    if backend in ("triton", "cuda"):
        pytest.skip("sums in fp32 inside a tile")
    generator = torch.Generator().manual_seed(2)
    for n, m in ((38, 197), (5, 64), (150, 33)):
        weights = torch.rand(n, generator=generator, requires_grad=True)
        x, y = torch.ones(n, 3), torch.ones(m, 3)
        loss = fastmmd.mmd(x, y, Gaussian(1.0), source_weights=weights, squared=False, backend=backend)
        assert loss == 0
        assert not torch.autograd.grad(loss, weights)[0].any()
    groups = torch.arange(70) % 7
    result = fastmmd.pairwise_mmd(
        [torch.ones(70, 5) * 3], groups, [Gaussian(1.0)], pair_weights=torch.ones(7, 7), backend=backend
    )
    assert abs(result.loss.item()) < 1e-9


def test_a_class_of_confident_predictions_is_weighted_as_its_probabilities_say():
    """1 - sum w^2 would be a difference of nearly equal numbers."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 2
    for rest in (1e-9, 1e-13, 1e-15):
        probabilities = torch.full((40, 2), rest, dtype=torch.float64)
        probabilities[:, 0] = 1 - rest
        probabilities[7] = torch.tensor([rest, 1.0])
        values = [
            fastmmd.mmd(
                x,
                y,
                SINGLE,
                source_weights=(labels == label).double(),
                target_weights=probabilities[:, label],
                estimator="unbiased",
            )
            for label in (0, 1)
        ]
        loss = fastmmd.lmmd(x, y, labels, probabilities, SINGLE, estimator="unbiased")
        torch.testing.assert_close(loss, torch.stack(values).mean(), rtol=1e-9, atol=1e-12)


def test_a_class_without_any_probability_is_absent():
    x, labels = torch.randn(6, 2), torch.zeros(6, dtype=torch.int64)
    assert fastmmd.lmmd(x, x + 1, labels, torch.zeros(6, 2), SINGLE) == 0


def test_pair_weights_that_do_not_count_are_not_read():
    rows, groups = torch.randn(12, 3), torch.tensor([0, 1, 3] * 4)  # nobody is in group 2
    weights = torch.ones(4, 4)
    expected = fastmmd.pairwise_mmd([rows], groups, [SINGLE], pair_weights=weights).loss
    weights.fill_diagonal_(float("inf"))
    weights[2] = weights[:, 2] = float("nan")
    assert fastmmd.pairwise_mmd([rows], groups, [SINGLE], pair_weights=weights).loss == expected


def test_pair_weights_may_be_symmetric_but_for_round_off():
    rows, groups = torch.randn(12, 3), torch.arange(12) % 3
    embeddings = torch.randn(3, 50)
    weights = embeddings @ embeddings.T
    weights[0, 1] *= 1 + 2e-7
    assert fastmmd.pairwise_mmd([rows], groups, [SINGLE], pair_weights=weights).loss.isfinite()
    with pytest.raises(ValueError, match="pair_weights: expected a symmetric matrix"):
        fastmmd.pairwise_mmd([rows], groups, [SINGLE], pair_weights=torch.ones(3, 3).triu())


def test_labels_that_are_no_numbers_of_groups_are_refused_before_memory_is_taken():
    rows = torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"groups: expected integers below 5, the number of rows, .*got 200000"):
        fastmmd.pairwise_mmd([rows], torch.tensor([0, 1, 0, 1, 200000]))
    assert fastmmd.pairwise_mmd([rows], torch.tensor([0, 1, 0, 1, 6]), num_groups=np.int64(7)).values.shape == (7, 7)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("source_weights", lambda x, bad: fastmmd.mmd(x, x, source_weights=bad[:, 0])),
        ("target_probabilities", lambda x, bad: fastmmd.lmmd(x, x, torch.arange(4) % 2, bad)),
        ("pair_weights", lambda x, bad: fastmmd.pairwise_mmd([x], torch.arange(4), pair_weights=bad)),
        ("w", lambda x, bad: fastmmd.kernel_forms([x], [SINGLE], bad)),
    ],
)
def test_sparse_tensors_are_refused_by_name(name, call):
    with pytest.raises(TypeError, match=f"^{name}: expected a dense tensor"):
        call(torch.randn(4, 2), torch.eye(4).to_sparse())


@pytest.mark.parametrize("backend", FAST)
def test_vjp_of_kernel_forms(backend):
    rows, w = torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
    values, pullback = torch.func.vjp(lambda z, w: fastmmd.kernel_forms([z], [SINGLE], w, backend=backend), rows, w)
    gradients = pullback(torch.ones_like(values))
    leaves = [rows.clone().requires_grad_(), w.clone().requires_grad_()]
    expected = fastmmd.kernel_forms([leaves[0]], [SINGLE], leaves[1], backend="reference").sum()
    torch.testing.assert_close(list(gradients), list(torch.autograd.grad(expected, leaves)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", FAST)
def test_a_graph_that_nobody_differentiates_again_costs_nothing_dense(backend, monkeypatch):
    def dense(call):
        raise AssertionError("N x N")

    rows = torch.randn(20, 3, requires_grad=True)
    w = torch.randn(20, 2, requires_grad=True)
    monkeypatch.setattr(reference, "differentiable", dense)
    forms = fastmmd.kernel_forms([rows], [SINGLE], w, backend=backend)
    plain = torch.autograd.grad(forms.sum(), (rows, w), retain_graph=True)
    graph = torch.autograd.grad(forms.sum(), (rows, w), create_graph=True)
    assert all(g.requires_grad for g in graph)
    torch.testing.assert_close(list(graph), list(plain), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="N x N"):
        graph[0].sum().backward()
