"""The modules hold options and call the functions."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fastmmd
from fastmmd import Gaussian
from tests.helpers import layers


def test_jmmd_loss_has_jans_kernels():
    """Long et al. 2017: five Gaussians around the mean squared distance on the features, one of bandwidth 1.68 on the
    softmax outputs; written out here with a Gram matrix of each layer."""
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    features, softmax = (torch.cdist(z, z).square() for z in map(torch.cat, zip(sources, targets, strict=True)))
    mean = features.sum() / (22 * 21)
    gram = sum(torch.exp(-features / (mean * 2.0**q)) for q in range(-2, 3)) * torch.exp(-softmax / 1.68)
    expected = gram[:12, :12].mean() + gram[12:, 12:].mean() - 2 * gram[:12, 12:].mean()
    torch.testing.assert_close(fastmmd.JMMDLoss()(sources, targets), expected)


def test_mmd_loss_is_the_function_with_its_options():
    source, target = layers(12, (8,), 0)[0], layers(12, (8,), 1)[0]
    for estimator in ("biased", "unbiased", "linear", "circular"):
        kernel = Gaussian("median", (1, 2))
        module = fastmmd.MMDLoss(kernel, estimator=estimator)
        assert torch.equal(module(source, target), fastmmd.mmd(source, target, kernel, estimator=estimator))


def test_transfer_loss_is_the_papers_term():
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    parts = fastmmd.TransferLoss().discrepancy(sources, targets)
    expected = 0.2 * fastmmd.jmmd(sources, targets) + 0.3 * fastmmd.mmd(sources[0], targets[0])
    torch.testing.assert_close(parts.loss, expected)
    torch.testing.assert_close(parts.loss, 0.2 * parts.joint + 0.3 * parts.marginals[0])
    assert not parts.joint.requires_grad


def test_modules_copy_pickle_and_have_no_state():
    module = fastmmd.TransferLoss(0.5, (0.1, 0.2), (Gaussian("median"), Gaussian(2.0, (1,))))
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(sources, targets), module(sources, targets))
    assert not module.state_dict()
    assert "joint=0.5" in repr(module)


def test_kernels_pickled_by_another_version_are_restored():
    """What follows from the arguments may have another form there."""
    kernel = Gaussian("median", (2, 1), (3, 4))
    restored = Gaussian.__new__(Gaussian)
    restored.__setstate__({**vars(kernel), "static": ("median", (1.0, 2.0), (4.0, 3.0), True)})
    assert restored == kernel
    assert restored.static == kernel.static


def test_a_copied_kernel_keeps_its_tensors_apart():
    kernel = Gaussian(nn.Parameter(torch.tensor(2.0)), weights=torch.ones(5))
    twin = copy.deepcopy(kernel)
    assert isinstance(twin.bandwidth, nn.Parameter)
    assert twin.bandwidth is not kernel.bandwidth
    assert torch.equal(twin.weights, kernel.weights)
    assert twin != kernel


def test_equal_kernels_are_equal():
    assert Gaussian() == Gaussian("mean", [0.25, 0.5, 1.0, 2.0, 4.0])
    assert len({Gaussian(), Gaussian(), Gaussian(2.0)}) == 2
    assert Gaussian(torch.tensor(2.0)) != Gaussian(torch.tensor(2.0))
    assert "static" not in repr(Gaussian())


def test_a_learned_bandwidth_is_a_parameter_of_the_loss():
    module = fastmmd.JMMDLoss((Gaussian(), Gaussian(torch.nn.Parameter(torch.tensor(2.0)), (1,))))
    assert set(module.state_dict()) == {"bandwidth1"}
    sources, targets = layers(12, (8, 4), 0, dtype=torch.float32), layers(10, (8, 4), 1, 0.5, torch.float32)
    before = module(sources, targets)
    before.backward()
    torch.optim.SGD(module.parameters(), 0.5).step()
    assert module(sources, targets) < before
    twin = copy.deepcopy(module)
    twin.bandwidth1.data.fill_(1.0)
    assert twin(sources, targets) != module(sources, targets)


class Exp(nn.Module):
    def forward(self, raw):
        return raw.exp()


NINE = torch.tensor(9.0, dtype=torch.float64)


def parametrized(module):
    parametrize.register_parametrization(module, "bandwidth0", Exp(), unsafe=True)
    module.parametrizations.bandwidth0.original.data.copy_(NINE.log())


CHANGES = {  # ways to give a module another bandwidth than the one it was built with
    "assigned": lambda m: m.load_state_dict({"bandwidth0": NINE}, assign=True),
    "loaded": lambda m: m.load_state_dict({"bandwidth0": NINE}),
    "loaded after to_empty": lambda m: m.to_empty(device="cpu").load_state_dict({"bandwidth0": NINE}),
    "parametrized": parametrized,
    "replaced": lambda m: setattr(m, "bandwidth0", nn.Parameter(NINE.clone())),
    "from meta": lambda m: m.to("meta").to_empty(device="cpu").load_state_dict({"bandwidth0": NINE}),
}


def learned():
    return fastmmd.MMDLoss(Gaussian(nn.Parameter(torch.tensor(1.0, dtype=torch.float64))))


@pytest.mark.parametrize("twin", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_bandwidth_is_the_modules_own(change, twin):
    source, target = layers(12, (8,), 0)[0], layers(10, (8,), 1)[0]
    module = twin(learned())
    change(module)
    torch.testing.assert_close(module(source, target), fastmmd.mmd(source, target, Gaussian(9.0)))
    assert module.kernels[0].bandwidth.item() == pytest.approx(9.0)
    (parameter,) = module.parameters()
    gradient = torch.autograd.grad(module(source, target), parameter)
    bandwidth = NINE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(fastmmd.mmd(source, target, Gaussian(bandwidth)), bandwidth)
    torch.testing.assert_close(gradient, torch.autograd.grad(module.bandwidth0, parameter, slope))


def test_functional_call_reaches_bandwidth_and_weights():
    source, target = (x[0].detach() for x in (layers(12, (8,), 0), layers(10, (8,), 1)))
    module = learned()

    def loss(bandwidth):
        return torch.func.functional_call(module, {"bandwidth0": bandwidth}, (source, target))

    torch.testing.assert_close(loss(NINE), fastmmd.mmd(source, target, Gaussian(9.0)))
    step = 1e-6
    slope = (loss(NINE + step) - loss(NINE - step)) / (2 * step)
    torch.testing.assert_close(torch.func.grad(loss)(NINE), slope, rtol=1e-6, atol=0)
    weighted = fastmmd.MMDLoss(Gaussian(2.0, (1, 2), nn.Parameter(torch.ones(2, dtype=torch.float64))))
    value = torch.func.functional_call(weighted, {"weights0": torch.tensor([0.0, 3.0])}, (source, target))
    torch.testing.assert_close(value, 3 * fastmmd.mmd(source, target, Gaussian(4.0, (1,))))


def test_a_constant_tensor_moves_with_the_module():
    module = fastmmd.MMDLoss(Gaussian(torch.tensor(2.0), weights=torch.ones(5)))
    assert set(module.state_dict()) == {"bandwidth0", "weights0"}
    assert not list(module.parameters())
    moved = copy.deepcopy(module).to("meta")
    assert moved.kernels[0].bandwidth.device.type == moved.kernels[0].weights.device.type == "meta"
    assert module.double().kernels[0].bandwidth.dtype == torch.float64


@pytest.mark.parametrize("module", [fastmmd.MMDLoss, fastmmd.JMMDLoss])
def test_modules_give_the_distance_on_request(module):
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    inputs = (sources[0], targets[0]) if module is fastmmd.MMDLoss else (sources, targets)
    torch.testing.assert_close(module(squared=False)(*inputs), module()(*inputs).sqrt())


def test_the_parts_of_an_mmd_loss():
    source, target = layers(12, (8,), 0)[0], layers(12, (8,), 1)[0]
    parts = fastmmd.MMDLoss().discrepancy(source, target)
    torch.testing.assert_close(parts.marginals[0], parts.loss)


def test_the_parts_of_a_local_mmd_loss():
    """Local MMDs, of all layers together and of each; the number of classes is that of the probabilities."""
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    labels, probabilities = torch.arange(12) % 3, layers(10, (3,), 2)[0].softmax(1)
    kernels = fastmmd.JMMDLoss().kernels
    parts = fastmmd.LMMDLoss(kernel=kernels, joint=0.2, marginal=(0.3, 0.0)).discrepancy(
        sources, targets, labels, probabilities
    )
    joint = fastmmd.lmmd(sources, targets, labels, probabilities, kernels)
    features = fastmmd.lmmd(sources[0], targets[0], labels, probabilities, kernels[0])
    torch.testing.assert_close(parts.joint, joint)
    torch.testing.assert_close(parts.marginals[0], features)
    torch.testing.assert_close(parts.loss, 0.2 * joint + 0.3 * features)
    torch.testing.assert_close(parts.bandwidths, fastmmd.discrepancy(sources, targets).bandwidths)
    with pytest.raises(ValueError, match=r"target_probabilities: expected shape \[n_t, 4\], got \(10, 3\)"):
        fastmmd.LMMDLoss(4)(sources[0], targets[0], labels, probabilities)
