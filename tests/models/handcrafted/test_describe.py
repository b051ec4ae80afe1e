"""Every picture has all features, finite, the same each time, and fit for the files of features."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.paintings import Paintings, painting
from fastmmd.models.handcrafted import GROUPS, NAMES, describe
from fastmmd.models.handcrafted.views import Views


def test_names():
    assert len(set(NAMES)) == len(NAMES) == 83
    counts = {group: sum(name.startswith(f"{group}.") for name in NAMES) for group in GROUPS}
    assert counts == {"colour": 26, "contrasts": 15, "texture": 27, "composition": 14, "content": 1}


def test_values_are_in_the_order_of_the_names():
    picture = painting(0, 0, size=64)
    views, values = Views.of(picture), dict(zip(NAMES, describe(picture).tolist(), strict=True))
    for group, features in GROUPS.items():
        for name, value in features(views).items():
            assert values[f"{group}.{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 400), (400, 1), (33, 31), (640, 20)])
def test_finite_for_every_size(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for picture in (Image.fromarray(pixels), Image.new("RGB", size, "red")):
        values = describe(picture)
        assert (values.shape, values.dtype) == ((len(NAMES),), torch.float32)
        assert values.isfinite().all()


@pytest.mark.parametrize("colour", ["black", "white", "grey", "blue"])
def test_plain_pictures_of_all_sizes_are_alike(colour):
    small, large = (describe(Image.new("RGB", size, colour)) for size in ((1, 1), (70, 50)))
    assert small.isfinite().all()
    torch.testing.assert_close(small, large)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_modes(mode):
    picture = painting(0, 0, size=64).convert(mode)
    torch.testing.assert_close(describe(picture), describe(picture.convert("RGB")), rtol=0, atol=0)


def test_grey_pictures_have_no_hue():
    values = dict(zip(NAMES, describe(painting(1, 0, size=64).convert("L")).tolist(), strict=True))
    hues = ("colour.hue_length", "colour.coloured", "contrasts.hue", "texture.wavelet_hue", "texture.glcm_hue_contrast")
    assert [values[name] for name in hues] == [0] * 5
    assert values["texture.wavelet_brightness"] > 0


@pytest.mark.parametrize(
    ("size", "scaled"), [((400, 300), (200, 150)), ((30, 60), (100, 200)), ((1, 1), (200, 200)), ((1, 400), (24, 200))]
)
def test_scaling_keeps_the_aspect_ratio_but_of_the_narrowest(size, scaled):
    width, height = scaled
    assert Views.of(Image.new("RGB", size)).rgb.shape == (height, width, 3)


def test_same_picture_at_another_size_has_like_features():
    large = painting(4, 1, size=400)
    one, other = describe(large), describe(large.resize((200, 200), Image.Resampling.BILINEAR))
    torch.testing.assert_close(one, other)


def test_deterministic():
    picture = painting(2, 5, size=128)
    first = describe(picture)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
    assert torch.equal(describe(picture), first)
    assert not torch.equal(describe(painting(2, 6, size=128)), first)


def test_pickles():
    assert pickle.loads(pickle.dumps(describe)) is describe


def test_as_a_transform_of_cached_features(tmp_path):
    paintings = Paintings(1, size=64)
    features = CachedFeatures(paintings, nn.Identity(), describe, tmp_path).features
    assert features.shape == (8, len(NAMES))
    assert torch.equal(features[3], describe(paintings[3][0]))
