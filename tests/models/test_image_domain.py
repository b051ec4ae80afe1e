"""A domain of image files: modes of pixels, classes, subsets, and what it refuses."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fastmmd.models.data import layouts
from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.pictures import to_rgb
from fastmmd.models.data.readers import MIKELS, SENTIMENT, read_artphoto, read_domain

from .test_readers import counts_of, noise, pictures


def test_classes_are_chosen_and_renamed(tmp_path):
    layouts.write_abstract(tmp_path, pictures(votes=counts_of))
    domain = read_domain("abstract", str(tmp_path), classes=["sadness", "awe"])
    assert [(name[-8:-4], target) for name, target in domain.samples] == [
        ("0003", 1),
        ("0008", 0),
        ("0011", 1),
        ("0016", 0),
    ]
    assert domain.votes.tolist() == [counts_of(label) for label in ["awe", "sadness"] * 2]
    sentiment = {name: SENTIMENT[name in ("amusement", "awe", "contentment", "excitement")] for name in MIKELS}
    domain = read_domain("abstract", str(tmp_path), classes=SENTIMENT, rename=sentiment)
    assert domain.targets == [1, 0, 1, 1, 0, 1, 0, 0] * 2
    assert read_domain("abstract", str(tmp_path), rename=sentiment).classes == ["positive", "negative"]
    with pytest.raises(ValueError, match=r"no class joy; the classes are \['amusement'"):
        domain = read_domain("abstract", str(tmp_path), classes=["joy"])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16", "P", "RGBA", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    layouts.save(noise(3, mode), tmp_path / "picture.jpg")
    image, _ = ImageDomain(tmp_path, ["picture.jpg"], [0], ["a"])[0]
    assert (image.mode, image.size) == ("RGB", (8, 6))
    stored = Image.open(tmp_path / "picture.jpg")
    assert stored.mode == mode
    if mode == "I;16":
        assert (np.asarray(image)[..., 0] == np.asarray(noise(3))[..., 0]).all()
    else:
        assert image == stored.convert("RGB")


@given(arrays.arrays(np.uint16, (2, 3)), st.sampled_from(["I;16", "I;16B", "I"]))
@settings(max_examples=20, deadline=None)
def test_16_bit_grey_is_scaled(levels, mode):
    assume(mode != "I" or levels.max() > 255)  # else they are levels of 8 bits
    image = (
        Image.fromarray(levels.astype(np.int32))
        if mode == "I"
        else Image.frombytes(mode, (3, 2), levels.astype(f"{'>' if mode[-1] == 'B' else '<'}u2").tobytes())
    )
    assert image.mode == mode
    expected = np.repeat(np.rint(levels / 257.0)[..., None], 3, axis=2)
    assert (np.asarray(to_rgb(image)) == expected).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    with pytest.raises(ValueError, match="whose white is unknown"):
        to_rgb(Image.new(mode, (2, 2), 70000))


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert list(np.asarray(to_rgb(image))[0].flat) == [255, 0, 0, 255, 255, 255]


def test_truncated_image_stops_with_its_name(tmp_path):
    root = layouts.write_artphoto(tmp_path, pictures())
    path = root / "testImages_artphoto" / "fear_0007.jpg"
    layouts.truncate(path)
    domain = read_artphoto(root)
    with pytest.raises(OSError, match=f"cannot read image {path}: "):
        domain[domain.names.index("fear_0007.jpg")]
    with pytest.warns(UserWarning, match=rf"left out 1 unreadable images of 16:\n  {path}: OSError"):
        rest = read_domain("artphoto", str(root), skip_unreadable=True)
    assert rest.samples == [sample for sample in domain.samples if sample[0] != "fear_0007.jpg"]
    assert rest.dropped == {"unreadable": ["fear_0007.jpg"]}


def test_nothing_is_left_out_of_a_good_set(tmp_path):
    layouts.write_artphoto(tmp_path, pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not read_domain("artphoto", str(tmp_path), skip_unreadable=True).dropped


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_subsets_keep_names_labels_and_votes_together(items):
    domain = ImageDomain("x", ["a", "b", "c", "d"], [0, 1, 0, 1], ["u", "v"], np.eye(4), "abcd")
    chosen = domain.subset(sorted(set(items)))
    assert [chosen.classes[target] for target in chosen.targets] == ["uv"["bd".count(name)] for name in chosen.names]
    assert ["abcd"[row.argmax()] for row in chosen.votes] == chosen.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": [], "targets": []}, "no images in x"),
        ({"targets": [0, 2]}, r"labels \[0, 2\] for the classes \['u', 'v'\]"),
        ({"votes": np.ones((2, 3))}, r"votes \(2, 3\) for 2 images"),
        ({"targets": [0]}, "2 images, 1 labels"),
    ],
)
def test_domain_that_is_none(change, message):
    arguments = {"root": "x", "names": ["a", "b"], "targets": [0, 1], "classes": ["u", "v"]}
    with pytest.raises(ValueError, match=message):
        ImageDomain(**{**arguments, **change})
