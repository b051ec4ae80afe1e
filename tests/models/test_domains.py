"""Splits, streams and batches of two domains."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torchvision.transforms import v2

from fastmmd.models.data import DomainPair
from fastmmd.models.data.sampling import SeededView, StreamSampler

from .conftest import Blobs


def batches(first=0, steps=5, size=7, batch=3, seed=(0, 0)):
    return list(StreamSampler(size, batch, steps, seed, first=lambda: first))


def test_stream_resumes_anywhere():
    whole = batches(steps=20)
    for step in range(20):
        assert batches(first=step, steps=20 - step) == whole[step:]


def test_stream_passes_over_everything_again_and_again():
    items = [item for batch in batches(steps=14) for item, _ in batch]
    assert len(items) == 6 * 7
    passes = [items[k : k + 7] for k in range(0, len(items), 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_batch_larger_than_domain():
    (batch,) = batches(steps=1, size=2, batch=5)
    assert sorted(Counter(item for item, _ in batch).values()) == [2, 3]


def test_streams_differ_by_seed_and_domain():
    assert batches(seed=(0, 0)) != batches(seed=(1, 0)) != batches(seed=(0, 1))


def test_random_transform_depends_on_its_seed_alone():
    data = Blobs()
    view = SeededView(data, range(10, 20), lambda image: image + torch.rand(4))
    torch.manual_seed(1)
    first = view[3, 77][0]
    state = torch.get_rng_state()
    assert torch.equal(view[3, 77][0], first)
    assert not torch.equal(view[3, 78][0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert view[3, 77][1] == data.targets[13]


def test_splits_are_disjoint_complete_and_stratified(blobs):
    data = blobs()
    train, validation = data.items["target"]
    assert sorted(train + validation + data.test_items) == list(range(48))
    assert (len(train), len(validation), len(data.test_items)) == (19, 5, 24)
    labels = Counter(data.domains["target"].targets[item] for item in data.test_items)
    assert labels == {0: 8, 1: 8, 2: 8}
    assert sorted([*data.items["source"][0], *data.items["source"][1]]) == list(range(60))


def test_split_seed_is_not_the_seed(blobs):
    assert blobs(seed=1).test_items == blobs(seed=2).test_items
    assert blobs(split_seed=1).test_items != blobs(split_seed=2).test_items


def test_different_classes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"source has \['a', 'b', 'c'\], target has \['a', 'c', 'b'\]"):
        DomainPair(Blobs(), Blobs(classes=["a", "c", "b"]))


def test_class_that_is_too_small_to_split_is_named():
    target = Blobs()
    target.targets = [0] * 30 + [1] * 29 + [2]
    with pytest.raises(ValueError, match=r"target: cannot hold out 50% of 60 items .* is 'c' with 1"):
        DomainPair(Blobs(), target)


@pytest.mark.parametrize("known", [True, False])
def test_item_that_cannot_be_read_is_named(known):
    class Broken(Blobs):
        def __getitem__(self, item):
            raise OSError("image file is truncated")

    data = Broken()
    if known:
        data.samples = [(f"folder/{k}.jpg", 0) for k in range(60)]
    name = "folder/17.jpg" if known else "17"
    with pytest.raises(RuntimeError, match=f"cannot read item {name}: OSError: image file is truncated"):
        SeededView(data, range(10, 20), None)[7, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers(blobs, workers):
    data = blobs(train_transform=v2.GaussianNoise(), workers=workers)
    data.trainer = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=3)))
    (images, labels), target = next(iter(data.train_dataloader()))[0].values()
    assert (len(labels), len(target[1])) == (9, 6)
    stream = StreamSampler(54, 9, 1, seed=(0, 0), first=lambda: 4)
    view = SeededView(data.domains["source"], data.items["source"][0], v2.GaussianNoise())
    expected = [view[key] for key in next(iter(stream))]
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]
