"""Kernel weights that are tensors: values, gradients, derivatives of every kind, on every backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastmmd
from fastmmd import Gaussian
from tests.helpers import FAST, layers

BACKENDS = [*FAST, "reference"]


def given_weights(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def test_the_gradient_is_the_value_of_each_gaussian():
    x = torch.arange(12.0).reshape(4, 3).sin()
    y = torch.arange(12.0).reshape(4, 3).cos()
    weights = nn.Parameter(torch.ones(5))
    fastmmd.mmd(x, y, Gaussian(2.0, weights=weights)).backward()
    torch.testing.assert_close(weights.grad, torch.tensor([0.882689, 0.822355, 0.550782, 0.255177, 0.090827]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["mean", "mean_all", "median", 2.0])
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear", "circular"])
def test_weight_tensors_act_as_the_same_numbers(backend, rule, estimator):
    sources, targets = layers(9, (5, 3), 0), layers(9, (5, 3), 1, 0.5)
    numbers = ((0.5, 2.0, 0.25), (1.0, 3.0))
    options = {"joint": 0.7, "marginal": (0.3, 0.2), "estimator": estimator, "backend": backend}

    def evaluate_with(weights):
        kernels = [Gaussian(rule, (2, 0.5, 1), weights[0]), Gaussian(1.68, (1, 4), weights[1])]
        result = fastmmd.discrepancy(sources, targets, kernels, **options)
        return result, torch.autograd.grad(result.loss, [*sources, *targets])

    expected = evaluate_with(numbers)
    for weights in ([given_weights(*w) for w in numbers], [given_weights(*numbers[0]), numbers[1]]):
        torch.testing.assert_close(evaluate_with(weights), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_of_joint_and_marginal_terms(backend):
    sources, targets = layers(5, (3, 4), 0), layers(4, (3, 4), 1, 0.5)

    def loss(first, second, source):
        kernels = [Gaussian(2.0, (0.5, 1, 3), first), Gaussian(1.68, (1, 4), second)]
        return fastmmd.discrepancy(
            [source, sources[1]], targets, kernels, joint=0.7, marginal=(0.3, 0.2), backend=backend
        ).loss

    inputs = (given_weights(0.5, 2.0, 1.0), given_weights(1.0, 3.0), sources[0])
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@given(n=st.integers(1, 33), m=st.integers(1, 33), count=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_linear_in_the_weights(n, m, count, seed):
    source, target = layers(n, (3,), seed, dtype=torch.float32)[0], layers(m, (3,), seed + 1, 0.5, torch.float32)[0]
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    loss = fastmmd.mmd(source, target, Gaussian(2.0, [2.0**q for q in range(count)], weights))
    (gradient,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(weights @ gradient, loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_under_every_transform(backend):
    source, target = (x.detach() for x in (*layers(7, (3,), 0), *layers(5, (3,), 1, 0.5)))

    def loss(weights):
        return fastmmd.mmd(source, target, Gaussian("mean", (1, 2), weights), backend=backend)

    weights = given_weights(0.5, 2.0)
    (expected,) = torch.autograd.grad(loss(weights), weights)
    torch.testing.assert_close(torch.func.grad(loss)(weights.detach()), expected)
    grid = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(loss)(grid), torch.stack([loss(w) for w in grid]))
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(grid), expected.expand(2, 2))
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(weights), weights)[0], expected)


@pytest.mark.parametrize("weights", [(-1.0, -1.0), (1.0, -3.0), (100.0, -99.99), (1.0, -1.0), (0.05, 0.1)])
@pytest.mark.parametrize("estimator", ["biased", "linear", "circular"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_distance_of_equal_samples_is_zero_whatever_the_weights(weights, estimator, dtype):
    source = layers(8, (3,), 0, dtype=torch.float32)[0]
    learned = given_weights(*weights, dtype=dtype)
    loss = fastmmd.mmd(source, source.detach(), Gaussian(1.0, (1, 3), learned), squared=False, estimator=estimator)
    assert loss.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, (source, learned)))


def test_large_weights_do_not_hide_a_distance():
    source, target = layers(8, (3,), 0, dtype=torch.float32)[0], layers(8, (3,), 1, 3.0, torch.float32)[0]
    learned = torch.full((3,), 3e4, dtype=torch.float16)
    distance = fastmmd.mmd(source, target, Gaussian(1.0, (1, 2, 3), learned), squared=False)
    exact = fastmmd.mmd(source, target, Gaussian(1.0, (1, 2, 3), learned.tolist()), squared=False)
    torch.testing.assert_close(distance, exact)


def test_learned_weights_train_as_part_of_a_module():
    module = fastmmd.MMDLoss(Gaussian("median", (1, 2), nn.Parameter(torch.ones(2))))
    assert set(module.state_dict()) == {"weights0"}
    source, target = layers(12, (8,), 0, dtype=torch.float32)[0], layers(10, (8,), 1, 0.5, torch.float32)[0]
    before = module(source, target)
    before.backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert module(source, target) < before
    with torch.no_grad():
        module.weights0.copy_(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(module(source, target), fastmmd.mmd(source, target, Gaussian("median", (2,))))
