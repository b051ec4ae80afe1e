"""The modules hold options and call the functions."""

import copy
import pickle

import torch

import fastmmd
from fastmmd import Gaussian
from tests.helpers import JAN, layers


def test_jmmd_loss_is_jans_loss_with_no_argument():
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    assert torch.equal(fastmmd.JMMDLoss()(sources, targets), fastmmd.jmmd(sources, targets, JAN))


def test_mmd_loss():
    source, target = layers(12, (8,), 0)[0], layers(12, (8,), 1)[0]
    for estimator in ("biased", "unbiased", "linear", "circular"):
        kernel = Gaussian("median", (1, 2))
        module = fastmmd.MMDLoss(kernel, estimator=estimator)
        assert torch.equal(module(source, target), fastmmd.mmd(source, target, kernel, estimator=estimator))


def test_transfer_loss_is_the_papers_term():
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    found = fastmmd.TransferLoss().discrepancy(sources, targets)
    expected = 0.2 * fastmmd.jmmd(sources, targets) + 0.3 * fastmmd.mmd(sources[0], targets[0])
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.loss, 0.2 * found.joint + 0.3 * found.marginals[0])
    assert not found.joint.requires_grad


def test_modules_copy_pickle_and_have_no_state():
    module = fastmmd.TransferLoss(0.5, (0.1, 0.2), (Gaussian("median"), Gaussian(2.0, (1,))))
    sources, targets = layers(12, (8, 4), 0), layers(10, (8, 4), 1)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(sources, targets), module(sources, targets))
    assert not module.state_dict()
    assert "joint=0.5" in repr(module)


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


def test_the_parts_of_an_mmd_loss():
    source, target = layers(12, (8,), 0)[0], layers(12, (8,), 1)[0]
    found = fastmmd.MMDLoss().discrepancy(source, target)
    torch.testing.assert_close(found.marginals[0], found.loss)
