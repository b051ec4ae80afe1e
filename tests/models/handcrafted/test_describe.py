"""Every picture has all features, finite, the same each time, and fit for the files of features."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fastmmd.models import handcrafted
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.paintings import Paintings, painting
from fastmmd.models.handcrafted import GROUPS, NAMES, Descriptors, describe
from fastmmd.models.handcrafted.views import Views


def described(picture):
    return dict(zip(NAMES, describe(picture).tolist(), strict=True))


def test_names_are_unique_and_counted_by_group():
    assert len(set(NAMES)) == len(NAMES) == 83
    counts = {group: sum(name.startswith(f"{group}.") for name in NAMES) for group in GROUPS}
    assert counts == {"colour": 26, "contrasts": 15, "texture": 27, "composition": 14, "content": 1}


def test_values_are_in_the_order_of_the_names():
    picture = painting(0, 0, size=64)
    views, values = Views.of(picture), described(picture)
    for group, module in GROUPS.items():
        of_group = module.features(views)
        assert tuple(of_group) == module.NAMES
        for name, value in of_group.items():
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


def test_what_is_transparent_is_white():
    """A yellow spot, a quarter of the area, on a ground whose hidden colour is black: as bright as can be."""
    picture = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    picture.paste((255, 255, 0, 255), (20, 20, 60, 60))
    values = described(picture)
    assert values["colour.brightness"] == 1
    shares = [values[f"colour.{name}"] for name in ("yellow", "white", "black")]
    assert shares == pytest.approx([0.25, 0.75, 0], abs=0.02)


def test_grey_of_16_bits():
    values = described(Image.fromarray(np.full((30, 40), 32768, dtype=np.uint16)))
    assert values["colour.brightness"] == pytest.approx(0.5, abs=0.005)
    assert values["colour.grey"] == 1


@pytest.mark.parametrize(
    ("mode", "ink", "colour"),
    [
        ("CMYK", (0, 255, 255, 0), "red"),
        ("CMYK", (0, 0, 0, 255), "black"),
        ("L", 128, (128, 128, 128)),
        ("LA", (90, 255), (90, 90, 90)),
        ("1", 1, "white"),
    ],
)
def test_every_mode_is_described_as_its_rgb_picture(mode, ink, colour):
    expected = describe(Image.new("RGB", (30, 40), colour))
    torch.testing.assert_close(describe(Image.new(mode, (30, 40), ink)), expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_modes_whose_white_is_unknown(mode):
    with pytest.raises(ValueError, match="whose white is unknown"):
        describe(Image.new(mode, (30, 40), 70000))


def test_grey_pictures_have_no_hue():
    values = described(painting(1, 0, size=64).convert("L"))
    hues = ("colour.hue_length", "colour.coloured", "contrasts.hue", "texture.wavelet_hue", "texture.glcm_hue_contrast")
    assert [values[name] for name in hues] == [0] * 5
    assert values["texture.wavelet_brightness"] > 0


@pytest.mark.parametrize(
    ("size", "scaled"), [((400, 300), (200, 150)), ((30, 60), (100, 200)), ((1, 1), (200, 200)), ((1, 400), (24, 200))]
)
def test_scaling_keeps_the_aspect_ratio_but_of_the_narrowest(size, scaled):
    width, height = scaled
    assert Views.of(Image.new("RGB", size)).rgb.shape == (height, width, 3)


@pytest.fixture(scope="module")
def large():
    """Pictures of 600 pixels, and their features."""
    pictures = [painting(label, label, size=600, style=style) for label in range(8) for style in ("painting", "photo")]
    return pictures, torch.stack([describe(picture) for picture in pictures])


def apart(large, side):
    """How far the features of pictures made smaller are from the large ones', in standard deviations over pictures."""
    pictures, features = large
    smaller = [describe(picture.resize((side, side), Image.Resampling.BOX)) for picture in pictures]
    return ((torch.stack(smaller) - features) / features.std(dim=0).clamp(min=1e-6)).abs()


def test_the_size_of_a_large_picture_matters_little(large):
    distances = apart(large, 300)
    assert distances.median() < 0.02
    lines = torch.tensor(["static_" in name or "slant_" in name for name in NAMES])
    assert distances[:, ~lines].mean(dim=0).max() < 0.4


def test_an_enlarged_picture_has_less_fine_texture(large):
    pictures, features = large
    fine = NAMES.index("texture.wavelet_brightness_1")
    for picture, values in zip(pictures[:4], features, strict=False):
        assert describe(picture.resize((70, 70), Image.Resampling.BOX))[fine] < values[fine] / 2


def test_deterministic():
    picture = painting(2, 5, size=128)
    first = describe(picture)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
    assert torch.equal(describe(picture), first)
    assert not torch.equal(describe(painting(2, 6, size=128)), first)


def test_describe_can_be_pickled():
    assert pickle.loads(pickle.dumps(describe)) is describe


def test_as_a_transform_of_cached_features(tmp_path):
    paintings = Paintings(1, size=64)
    features = CachedFeatures(paintings, Descriptors(), describe, tmp_path).features
    assert features.shape == (8, len(NAMES))
    assert torch.equal(features[3], describe(paintings[3][0]))


def test_descriptors_are_the_identity():
    values = torch.arange(6.0).reshape(2, 3)
    assert Descriptors()(values) is values


def test_descriptors_change_with_the_sources(tmp_path, monkeypatch):
    before = repr(Descriptors())
    copies = shutil.copytree(handcrafted.SOURCES, tmp_path / "copies")
    monkeypatch.setattr(handcrafted, "SOURCES", copies)
    assert repr(Descriptors()) == before
    source = copies / "views.py"
    source.write_bytes(source.read_bytes().replace(b"CHROMATIC = 200, 24, 0.05", b"CHROMATIC = 200, 24, 0.06"))
    assert repr(Descriptors()) != before


def test_descriptors_change_with_a_library(monkeypatch):
    before = repr(Descriptors())
    monkeypatch.setattr(handcrafted, "version", lambda name: "0.1")
    assert repr(Descriptors()) != before


def test_changed_sources_make_the_features_anew(tmp_path, monkeypatch):
    paintings = Paintings(1, size=64)
    CachedFeatures(paintings, Descriptors(), describe, tmp_path)
    monkeypatch.setattr(handcrafted, "SOURCES", tmp_path)
    CachedFeatures(paintings, Descriptors(), describe, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
