"""Generated paintings are a function of their arguments, and their classes differ in what they should."""

import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmmd.models.data.paintings import LOOKS, STYLES, Paintings, noisy_labels, painting

LOCAL, LAYOUT, BOTH = ("amusement", "anger", "disgust"), ("awe", "contentment", "sadness"), ("excitement", "fear")


def test_classes_are_the_eight_emotions():
    assert tuple(LOOKS) == ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
    assert sorted(LOOKS) == sorted(LOCAL + LAYOUT + BOTH)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 100, 375])
def test_pictures_are_rgb_of_the_size_and_not_flat(style, size):
    picture = painting(5, 3, size=size, style=style)
    assert (picture.mode, picture.size) == ("RGB", (size, size))
    assert np.asarray(picture).std() > 15


def test_each_argument_matters():
    arguments = [(0, 0, 0, 64, "painting"), (1, 0, 0, 64, "painting"), (0, 1, 0, 64, "painting")]
    arguments += [(0, 0, 1, 64, "painting"), (0, 0, 0, 64, "photo")]
    assert len({painting(*argument).tobytes() for argument in arguments}) == len(arguments)


@pytest.mark.parametrize("style", STYLES)
def test_other_size_shows_the_same_scene(style):
    for label in range(8):
        small, large = (painting(label, 2, size=size, style=style).resize((64, 64)) for size in (64, 256))
        a, b = (np.asarray(picture.convert("L"), dtype=float).ravel() for picture in (small, large))
        assert np.corrcoef(a, b)[0, 1] > 0.9


def digest(style):
    return sha256(b"".join(painting(label, 9, 7, 64, style).tobytes() for label in range(8))).hexdigest()


def test_same_in_every_process():
    code = "from tests.models.test_paintings import digest, STYLES; print(*map(digest, STYLES))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(style) for style in STYLES]


def test_unknown_style_is_refused():
    for make in (painting, Paintings):
        with pytest.raises(ValueError, match=r"style must be one of .*, got 'fresco'"):
            make(0, 0, style="fresco")


def test_dataset_has_the_counts_asked_for_in_order():
    counts = [3, 0, 1, 2, 0, 0, 1, 2]
    data = Paintings(counts, seed=4, size=64, style="photo")
    assert len(data) == 9
    assert data.classes == tuple(LOOKS)
    assert data.targets == data.truth == [0, 0, 0, 2, 3, 3, 6, 7, 7]
    assert data.names[2:4] == ["amusement_photo_00002", "awe_photo_00000"]
    assert len(set(data.names)) == 9
    picture, label = data[5]
    assert label == 3
    assert picture.tobytes() == painting(3, 1, 4, 64, "photo").tobytes()
    assert len(Paintings(5)) == 40
    with pytest.raises(ValueError, match="argument 2"):
        Paintings([1, 2, 3])


def test_noisy_dataset_shows_the_truth_and_tells_the_noise():
    data = Paintings(100, size=64, noise=0.779)
    assert sum(wrong != right for wrong, right in zip(data.targets, data.truth, strict=True)) == 8 * 78
    item = next(k for k in range(800) if data.targets[k] != data.truth[k])
    picture, label = data[item]
    assert label == data.targets[item]
    assert picture.tobytes() == painting(data.truth[item], item % 100, size=64).tobytes()


@given(st.lists(st.integers(0, 4), max_size=200), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_noise_is_a_share_of_each_class_spread_evenly(labels, share, seed):
    noisy = noisy_labels(labels, 5, share, seed)
    assert noisy == noisy_labels(labels, 5, share, seed)
    for label in range(5):
        now = Counter(new for new, old in zip(noisy, labels, strict=True) if old == label)
        wrong = [now[other] for other in range(5) if other != label]
        assert sum(wrong) == round(share * labels.count(label))
        assert max(wrong) - min(wrong) <= 1


def histogram(picture):
    """How much of each hue, saturation and value there is."""
    channels = np.asarray(picture.convert("HSV")).reshape(-1, 3).T
    return np.sqrt(np.concatenate([np.histogram(channel, 16, (0, 256))[0] for channel in channels]))


def thumbnail(picture):
    """Where light and dark are."""
    return np.asarray(picture.convert("L").resize((6, 6))).ravel() / 255


def accuracy(classes, style, feature, count=120):
    """The cross-validated accuracy of a linear classifier of a feature."""
    labels = np.repeat([list(LOOKS).index(name) for name in classes], count)
    features = [feature(painting(label, k % count, 3, 64, style)) for k, label in enumerate(labels)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    return cross_val_score(model, features, labels, cv=5).mean()


@pytest.mark.parametrize("style", STYLES)
def test_classes_differ_in_what_they_should(style):
    # Chance is 1/3, with a standard deviation of 0.025.
    assert accuracy(LAYOUT, style, histogram) < 0.42
    assert accuracy(LAYOUT, style, thumbnail) > 0.65
    # The palettes overlap, so that colours alone don't settle it.
    assert 0.8 < accuracy(LOCAL, style, histogram) < 0.97
    for feature in (histogram, thumbnail):
        assert accuracy(BOTH, style, feature) > 0.9
