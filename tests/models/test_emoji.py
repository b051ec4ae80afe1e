"""Emoji of several vendors: read, grouped, drawn and kept; real sets where they are installed."""

import importlib.util
import json
import os
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmmd.models.data import emoji as module
from fastmmd.models.data.emoji import EMOTIONS, GROUPS, Emoji
from fastmmd.models.data.folds import stratified_split

SETS = Path(os.environ.get("FASTMMD_EMOJI", "node_modules/@iconify-json"))
VENDORS = ("noto", "twemoji", "fluent-emoji-flat")

needs_resvg = pytest.mark.skipif(importlib.util.find_spec("resvg_py") is None, reason="pip install resvg-py")
needs_sets = pytest.mark.skipif(
    not all((SETS / vendor).is_dir() for vendor in VENDORS),
    reason=f"no icon sets in {SETS} (FASTMMD_EMOJI): npm install @iconify-json/noto, /twemoji and /fluent-emoji-flat",
)


@pytest.fixture
def icon_set(tmp_path):
    """A set of five drawings: two faces, a dog that is lower than wide, a hand with a skin tone, and a flag."""

    def rectangle(colour):
        return {"body": f'<path fill="{colour}" d="M0 0h32v32H0z"/>'}

    icons = {"grinning-face": rectangle("red"), "angry-face": rectangle("blue"), "flag": rectangle("black")}
    icons |= {"dog": rectangle("lime") | {"height": 16}, "hand-dark": rectangle("brown")}
    content = {
        "icons": {"prefix": "toy", "lastModified": 5, "width": 32, "height": 32, "icons": icons},
        "metadata": {
            "categories": {
                "Smileys & Emotion": ["angry-face", "grinning-face"],
                "Animals & Nature": ["dog"],
                "People & Body": ["hand-dark"],
                "Flags": ["flag"],
            }
        },
        "chars": {"1f600": "grinning-face", "1f620": "angry-face", "1f415": "dog", "1f3c1": "flag"}
        | {"1f590-1f3ff": "hand-dark", "1f601": "of an alias"},
    }
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def pencil(monkeypatch):
    """Draws a grey square with a transparent frame; the list of what was drawn."""
    drawn = []

    def draw(svg, size):
        drawn.append(svg)
        picture = Image.new("RGBA", (size, size))
        picture.paste((128, 128, 128, 255), (4, 4, size - 4, size - 4))
        file = BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    monkeypatch.setattr(module, "_draw", draw)
    return drawn


def test_groups_are_those_of_the_set(icon_set):
    data = Emoji(icon_set)
    assert data.vendor == "toy"
    assert data.classes == GROUPS
    assert data.names == ["1f415", "1f600", "1f620"]
    assert [data.classes[label] for label in data.targets] == ["Animals & Nature", *["Smileys & Emotion"] * 2]


def test_equal_drawings_are_kept_once(icon_set):
    """Else a network could be tested on a picture that it has learned by another name."""
    path = icon_set / "icons.json"
    content = json.loads(path.read_text())
    content["icons"]["grinning-face"] = content["icons"]["angry-face"]
    path.write_text(json.dumps(content))
    data = Emoji(icon_set)
    assert (data.names, len(data.targets)) == (["1f415", "1f600"], 2)


def test_emotions_are_those_of_the_table(icon_set):
    data = Emoji(icon_set, labels="emotions")
    assert data.classes == tuple(EMOTIONS)
    assert [(name, data.classes[label]) for name, label in zip(data.names, data.targets, strict=True)] == [
        ("1f600", "excitement"),
        ("1f620", "anger"),
    ]


def test_table_of_emotions():
    assert list(EMOTIONS) == ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]
    assert [len(faces) for faces in EMOTIONS.values()] == [12, 8, 8, 10, 8, 8, 8, 13]
    assert len(set("".join(EMOTIONS.values()))) == 75


def test_excluded_emoji_are_left_out(icon_set):
    assert Emoji(icon_set, exclude=["1f600", "1f999"]).names == ["1f415", "1f620"]


def test_background_is_white_or_random_by_emoji_and_seed(icon_set, pencil):
    white, random = Emoji(icon_set, size=32), Emoji(icon_set, size=32, background="random")
    again, other = (Emoji(icon_set, size=32, background="random", seed=seed, exclude=["1f415"]) for seed in (0, 1))
    picture, label = white[1]
    assert (picture.mode, picture.size, label) == ("RGB", (32, 32), GROUPS.index("Smileys & Emotion"))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((16, 16)) == (128, 128, 128)
    corners = {random[k][0].getpixel((0, 0)) for k in range(3)}
    assert len(corners) == 3
    # The colour goes with the emoji and not with its place in the set.
    assert again[0][0].tobytes() == random[1][0].tobytes()
    assert other[0][0].tobytes() != random[1][0].tobytes()


def test_drawings_are_kept(icon_set, pencil, tmp_path):
    cache = tmp_path / "cache"
    first = Emoji(icon_set, size=32, cache=cache)[2][0]
    assert [str(path.relative_to(cache)) for path in cache.rglob("*.*")] == ["toy-5-32/1f620.png"]
    second = Emoji(icon_set, size=32, cache=cache)[2][0]
    assert first.tobytes() == second.tobytes()
    assert len(pencil) == 1
    Emoji(icon_set, size=40, cache=cache)[2]
    assert len(pencil) == 2
    # Without a cache every access draws.
    data = Emoji(icon_set)
    assert data[0][0].tobytes() == data[0][0].tobytes()
    assert len(pencil) == 4


def test_interrupted_drawing_leaves_nothing(icon_set, monkeypatch, tmp_path):
    def fail(svg, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_draw", fail)
    with pytest.raises(KeyboardInterrupt):
        Emoji(icon_set, cache=tmp_path / "cache")[0]
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_missing_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"icons\.json is missing.*npm install @iconify-json/noto"):
        Emoji(tmp_path / "noto")


def test_missing_package_is_named(icon_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ModuleNotFoundError, match="pip install resvg-py"):
        Emoji(icon_set)[0]


@pytest.mark.parametrize("setting", [{"labels": "moods"}, {"background": "striped"}])
def test_unknown_settings_are_refused(icon_set, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got '{value}'"):
        Emoji(icon_set, **setting)


@needs_resvg
def test_drawings_are_centred_and_keep_their_shape(icon_set):
    dog, grinning = (np.asarray(Emoji(icon_set, size=32)[k][0]) for k in (0, 1))
    assert (grinning == (255, 0, 0)).all()
    assert (dog[8:24] == (0, 255, 0)).all()
    assert (dog[:8] == 255).all()
    assert (dog[24:] == 255).all()


@needs_sets
def test_real_sets():
    counts = {}
    for vendor in VENDORS:
        data = Emoji(SETS / vendor)
        assert data.vendor == vendor
        assert len(set(data.names)) == len(data) > 1500
        assert min(data.targets.count(label) for label in range(8)) > 80
        counts[vendor] = dict(zip(data.names, data.targets, strict=True))
    common = set.intersection(*(set(names) for names in counts.values()))
    assert len(common) > 1500
    disputed = [name for name in common if len({names[name] for names in counts.values()}) > 1]
    assert len(disputed) < 20


@needs_sets
def test_faces_of_one_emoji_stay_in_one_fold():
    sets = [Emoji(SETS / vendor, labels="emotions") for vendor in VENDORS]
    names = [f"{data.vendor}/{name}" for data in sets for name in data.names]
    labels = [data.classes[label] for data in sets for label in data.targets]
    assert len(names) == 225
    split = stratified_split(names, labels, tuple(EMOTIONS), groups=[name.split("/")[1] for name in names])
    for fold in split.folds:
        tested = {name.split("/")[1] for name in fold.test}
        assert len(fold.test) == 3 * len(tested)
        assert tested.isdisjoint(name.split("/")[1] for name in fold.train)


@needs_sets
@needs_resvg
def test_real_drawings_are_not_blank_and_alike():
    faces = [Emoji(SETS / vendor, labels="emotions", size=48) for vendor in VENDORS]
    for item in range(0, 75, 5):
        pictures = [np.asarray(data[item][0]) for data in faces]
        assert all(np.ptp(picture) > 100 for picture in pictures)
        assert not np.array_equal(pictures[0], pictures[1])
