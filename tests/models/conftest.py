"""Fixtures of the training code's tests. One thread: results are then equal bit for bit from run to run."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fastmmd.models.data import DomainPair
from fastmmd.models.networks import TransferNet

CLASSES = ["a", "b", "c"]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What is kept of pictures that were looked at stays among the tests' files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Blobs(Dataset):
    """`count` vectors [4] in three classes around different centres, moved by `shift`."""

    def __init__(self, count=60, shift=0.0, classes=CLASSES):
        generator = torch.Generator().manual_seed(count)
        self.classes = classes
        self.targets = [k % len(classes) for k in range(count)]
        self.images = torch.randn(count, 4, generator=generator) + shift
        self.images[torch.arange(count), self.targets] += 3

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, item):
        return self.images[item], self.targets[item]


class Trunk(nn.Sequential):
    """The smallest backbone: vectors [n, 4] to features [n, 8]."""

    out_features = 8

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TransferNet(Trunk(), num_classes=3, width=6)


@pytest.fixture
def blobs():
    """A function that makes a `DomainPair` of blobs: 9 source and 6 target items per batch, 5 batches per epoch."""

    def make(**settings):
        defaults = {"source_batch": 9, "target_batch": 6, "steps_per_epoch": 5}
        return DomainPair(Blobs(60), Blobs(48, shift=1.0), **{**defaults, **settings})

    return make
