"""The experiments on small sets: each class against all others by known answers, and each command in miniature."""

import csv
import json
import subprocess
import sys
from functools import wraps
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastmmd.models import cross_validation, handcrafted, small_sets
from fastmmd.models.analysis import one_against_all, published
from fastmmd.models.analysis.one_against_all import rates, scores
from fastmmd.models.analysis.predictions import paired, read_predictions
from fastmmd.models.cross_validation import Divided, Features, Method, divide, predict
from fastmmd.models.data.demo import write_abstract_set, write_emotion_sets, write_mart_set
from fastmmd.models.data.emoji import EMOTIONS, Emoji, Vendors
from fastmmd.models.data.folds import Split
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.data.readers import MIKELS, read_domain
from fastmmd.models.small_sets import Roots, emoji, emotions, mart
from fastmmd.models.trained import Trained
from tests.models.figures import assert_drawn
from tests.models.test_export import save_photo_checkpoint

DRAWN = []


def mean_colour(picture):
    """Stands in for the hand-crafted features: mean and deviation of red, green and blue."""
    DRAWN.append(picture.size)
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(np.concatenate([pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))]))


class Lite(nn.Module):
    """Stands in for EfficientNet-Lite0: images [n, 3, 16, 16] to pixels of a coarse picture."""

    preprocessing = Preprocessing(resize=18, crop=16)

    def forward(self, images):
        assert images.shape[1:] == (3, 16, 16)
        return nn.functional.avg_pool2d(images, 8).flatten(1)


@pytest.fixture
def stand_ins(monkeypatch):
    DRAWN.clear()
    monkeypatch.setattr(handcrafted, "describe", mean_colour)
    monkeypatch.setattr(cross_validation, "EfficientNetLite0", Lite)


def fitted(monkeypatch):
    """A list that gets an entry for each classifier that is fitted and tested."""
    calls = []
    held_out = one_against_all.held_out

    def counted(*args):
        calls.append(args[0])
        return held_out(*args)

    for module in (one_against_all, small_sets):
        monkeypatch.setattr(module, "held_out", counted)
    return calls


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def table(path):
    """The cells of a Markdown table by row and column."""
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in path.read_text().splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(header, line, strict=True)) for line in lines]


# The core: pure functions of arrays.


def test_rates_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    scored = np.array([[0.9, 0.6, 0.1], [0.5, 0.2, 0.1], [0.7, 0.4, 0.8], [0.7, 0.8, 0], [0.6, 0.3, 0], [0, 0, 0.2]])
    result = rates(scored, labels)
    assert result.found.tolist() == [2, 1, 0]  # 0.5 is not above 0.5
    assert result.items.tolist() == [3, 2, 1]
    assert result.rejected.tolist() == [1, 3, 4]
    assert result.others.tolist() == [3, 4, 5]
    np.testing.assert_allclose(result.positive, [200 / 3, 50, 0])
    np.testing.assert_allclose(result.both, [50, 62.5, 40])
    low, high = result.interval
    assert (low <= result.positive + 1e-9).all()
    assert (result.positive <= high).all()
    np.testing.assert_allclose([low[1], high[1]], [9.453, 90.547], atol=1e-3)  # Wilson, 1 of 2


def division(count=90, classes=3, folds=5):
    labels = np.arange(count) % classes
    return labels, np.arange(count) // classes % folds


@pytest.mark.parametrize("name", ["logistic", "naive_bayes"])
def test_separable_classes_are_told_apart(name):
    labels, folds = division()
    features = np.random.default_rng(0).normal(size=(90, 4)) + 12 * np.eye(4)[labels]
    result = rates(scores(name, features, labels, folds), labels)
    assert result.positive.tolist() == result.both.tolist() == [100, 100, 100]


def test_of_features_that_say_nothing_both_sides_are_half():
    labels, folds = division(1500)
    result = rates(scores("logistic", np.random.default_rng(0).normal(size=(1500, 3)), labels, folds), labels)
    np.testing.assert_allclose(result.both, 50, atol=4)
    # A class weighs as much as all others, or a classifier of one in three would always say no.
    np.testing.assert_allclose(result.positive, 50, atol=12)


def test_orders_do_not_matter():
    labels, folds = division()
    features = np.random.default_rng(0).normal(size=(90, 4)) + np.eye(4)[labels]
    in_order = scores("logistic", features, labels, folds)
    order = np.random.default_rng(1).permutation(90)
    np.testing.assert_allclose(
        scores("logistic", features[order], labels[order], folds[order]), in_order[order], atol=1e-5
    )
    renamed = scores("logistic", features, 2 - labels, 4 - folds)
    np.testing.assert_allclose(renamed, in_order[:, ::-1], atol=1e-5)


def test_gaps_and_shapes_are_refused():
    labels, folds = division()
    with pytest.raises(ValueError, match=r"labels: expected at least two, 0, 1, ... without a gap, got \[0, 2, 4\]"):
        scores("logistic", np.zeros((90, 2)), 2 * labels, folds)
    with pytest.raises(ValueError, match=r"found: expected the scores \[90, 3\], got \[90, 2\]"):
        rates(np.zeros((90, 2)), labels)


# Data.


@pytest.fixture
def vendors(tmp_path, monkeypatch):
    """Folders of two icon sets in which each face is a plain colour of its emotion; two faces have one drawing."""
    faces = {f"{ord(face):x}": emotion for emotion, group in EMOTIONS.items() for face in group}
    for vendor in ("noto", "twemoji"):
        shades = {code: f"{vendor} {MIKELS.index(emotion)} {k}" for k, (code, emotion) in enumerate(faces.items())}
        shades["1f606"] = shades["1f604"]
        content = {
            "icons": {"prefix": vendor, "icons": {code: {"body": shade} for code, shade in shades.items()}},
            "metadata": {"categories": {}},
            "chars": {code: code for code in faces},
        }
        (tmp_path / vendor).mkdir()
        for name, value in content.items():
            (tmp_path / vendor / f"{name}.json").write_text(json.dumps(value))

    def colour(emoji, name):
        emotion, k = map(int, emoji.drawings[name].split("</svg>")[0].split(">")[1].split()[1:])
        return (25 * emotion + k % 7, 200 - 25 * emotion, 100 + k % 5)

    def draw(emoji, item):
        name = emoji.names[item]
        return Image.new("RGB", (emoji.size // 32, 8), colour(emoji, name)), emoji.targets[item]

    monkeypatch.setattr(Emoji, "__getitem__", draw)
    return [tmp_path / vendor for vendor in ("noto", "twemoji")]


def test_several_vendors_are_one_domain(vendors):
    sets = [Emoji(folder, labels="emotions") for folder in vendors]
    domain = Vendors(sets)
    assert len(domain) == 2 * 74
    assert (domain.names[0], domain.names[74]) == (f"noto/{domain.groups[0]}", f"twemoji/{domain.groups[0]}")
    picture, label = domain[80]
    assert label == domain.targets[80] == sets[1].targets[6]
    assert picture.getpixel((0, 0)) == sets[1][6][0].getpixel((0, 0))
    assert all(vendor.fingerprint in domain.fingerprint for vendor in sets)
    with pytest.raises(ValueError, match=r"each of another vendor, got \['noto', 'noto'\]"):
        Vendors([sets[0], sets[0]])
    with pytest.raises(ValueError, match="sets: expected the same classes in all"):
        Vendors([sets[0], Emoji(vendors[1])])


def test_a_group_is_never_torn(vendors):
    domain = Vendors([Emoji(folder, labels="emotions") for folder in vendors])
    divided = divide(domain, folds=5, seed=0)
    folds = dict(zip(divided.names, divided.folds, strict=True))
    assert len(folds) == 148
    assert all(folds[f"noto/{code}"] == folds[f"twemoji/{code}"] for code in domain.groups)
    # Older releases of scikit-learn shuffle groups so that a fold may be without a class.
    assert min(len(np.unique(divided.folds[divided.labels == label])) for label in range(8)) >= 3


def test_demonstration_sets(tmp_path):
    abstract = read_domain("abstract", str(write_abstract_set(tmp_path, size=16)))
    assert 200 < len(abstract) < 260
    assert len(abstract) + len(abstract.dropped["tied votes"]) == 280
    assert (abstract.votes.sum(axis=1) == 14).all()
    paintings = read_domain("mart", str(write_mart_set(tmp_path, size=16)))
    assert (len(paintings), sum(paintings.targets)) == (500, 250)
    looks = np.array([k % 8 in (0, 2, 3, 5) for k in range(500)])  # amusement, awe, contentment, excitement
    assert 0.75 < (looks == paintings.targets).mean() < 0.95
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    write_mart_set(tmp_path, size=16)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


# Commands.


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """ArtPhoto with every emotion, IAPS with one image of anger, Abstract as it is but for the size."""
    folder = tmp_path_factory.mktemp("sets")
    sets = write_emotion_sets(folder, size=32, shrink={"artphoto": 6, "iaps": 6})
    return Roots(**sets, abstract=write_abstract_set(folder, size=32))


def test_emotions(roots, tmp_path, stand_ins, monkeypatch, capsys):
    checkpoint = save_photo_checkpoint(tmp_path / "last.ckpt")
    networks = {"Lite": "lite0", "ResNet": str(checkpoint)}
    settings = {"min_per_class": 5, "output": tmp_path / "out", "networks": networks}
    emotions(Roots(iaps=roots.iaps), **settings)
    names = ("Lite", "ResNet", "hand-crafted, logistic", "hand-crafted, naive Bayes")

    # IAPS in sixths: 6, 1, 9, 8, 12, 9, 7, 10.
    predictions = rows(tmp_path / "out" / "iaps.csv")
    assert len(predictions) == 4 * 61
    columns = [f"p_{name}" for name in MIKELS if name != "anger"]
    assert list(predictions[0]) == ["method", "item", "fold", "label", *columns]
    assert {row["fold"] for row in predictions} == set("01234")
    cells = table(tmp_path / "out" / "iaps.md")
    assert [(row["method"], row["rate, %"]) for row in cells] == [*product(names, ("true positives", "both sides"))]
    for row, name in zip(cells[::2], names, strict=True):
        of_method = [item for item in predictions if item["method"] == name]
        of_awe = [item for item in of_method if item["label"] == "awe"]
        right = sum(float(item["p_awe"]) > 0.5 for item in of_awe)
        assert row["awe"] == f"{100 * right / len(of_awe):.1f}"
        others = [item for item in of_method if item["label"] != "awe"]
        rejected = sum(float(item["p_awe"]) <= 0.5 for item in others)
        both = dict(cells[cells.index(row) + 1])
        assert both["awe"] == f"{50 * right / len(of_awe) + 50 * rejected / len(others):.1f}"
    text = (tmp_path / "out" / "iaps.md").read_text()
    assert "Left out for too few images: anger (1)." in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "out" / "iaps.tex").is_file()
    assert_drawn(tmp_path / "out" / "iaps.png")
    assert (tmp_path / "out" / "iaps.pdf").is_file()
    assert not (tmp_path / "out" / "artphoto.md").exists()

    # Nothing is computed twice, but for the pictures that the name of a file of features depends on.
    calls, pictures = fitted(monkeypatch), len(DRAWN)
    before = (tmp_path / "out" / "iaps.csv").read_bytes()
    emotions(Roots(iaps=roots.iaps), **settings)
    assert not calls
    assert len(DRAWN) - pictures == 16
    assert (tmp_path / "out" / "iaps.csv").read_bytes() == before
    emotions(Roots(iaps=roots.iaps), **(settings | {"seed": 1}))
    assert len(calls) == 4 * 7


def test_features_are_those_of_the_items_that_are_kept(roots, tmp_path, stand_ins):
    domain = read_domain("iaps", str(roots.iaps))
    divided = divide(domain, folds=5, seed=0, least=5)
    assert divided.left_out == {"anger": 1}
    seen = []

    def nothing(name, features, labels, folds):
        seen.append(features)
        return np.zeros((len(labels), 7))

    methods = [Method("A", "hand-crafted", "logistic")]
    predict("iaps", domain, divided, methods, nothing, Features({}, tmp_path), tmp_path)
    assert len(seen[0]) == len(divided.names) == 61
    for item, name in enumerate(divided.names):
        picture, label = domain[domain.names.index(name)]
        np.testing.assert_allclose(seen[0][item], mean_colour(picture), rtol=1e-5)
        assert domain.classes[label] == divided.classes[divided.labels[item]]


def test_other_code_computes_the_handcrafted_features_anew(paintings, tmp_path, stand_ins, monkeypatch):
    domain, features = read_domain("mart", str(paintings)), Features({}, tmp_path)
    for code in ("old", "old", "new"):
        monkeypatch.setattr(handcrafted.Descriptors, "extra_repr", lambda self, code=code: code)
        assert features.of(domain, "hand-crafted").shape == (100, 6)
    assert len(list(tmp_path.iterdir())) == 2


def test_interrupted_command_goes_on(roots, tmp_path, stand_ins, monkeypatch):
    calls = fitted(monkeypatch)
    original = one_against_all.scores

    @wraps(original)
    def failing(name, *arrays):
        if name == "naive_bayes":
            raise KeyboardInterrupt
        return original(name, *arrays)

    with monkeypatch.context() as patch:
        patch.setattr(one_against_all, "scores", failing)
        with pytest.raises(KeyboardInterrupt):
            emotions(Roots(artphoto=roots.artphoto), output=tmp_path)
    assert calls == ["logistic"] * 16
    assert not (tmp_path / "artphoto.csv").exists()
    emotions(Roots(artphoto=roots.artphoto), output=tmp_path)
    assert calls == ["logistic"] * 16 + ["naive_bayes"] * 8
    assert len(table(tmp_path / "artphoto.md")) == 6


def test_demonstration_of_emotions(roots, tmp_path, stand_ins, monkeypatch):
    monkeypatch.setattr(
        small_sets, "write_emotion_sets", lambda folder, shrink: {name: getattr(roots, name) for name in shrink}
    )
    monkeypatch.setattr(small_sets, "write_abstract_set", lambda folder: roots.abstract)
    titles = []
    monkeypatch.setattr(small_sets.figures, "one_against_all", lambda *args: titles.append(args[3]))
    emotions(demo=True, min_per_class=6, networks={}, output=tmp_path)
    for name in ("artphoto", "abstract", "iaps"):
        for kind in ("md", "tex"):
            assert "Generated pictures, invented labels." in (tmp_path / f"{name}.{kind}").read_text()
    assert all("Generated pictures, invented labels." in title for title in titles)
    assert ["Left out" in title for title in titles] == [False, True, True]
    assert "Left out for too few images: anger (" in titles[1]


def test_emoji(vendors, tmp_path, stand_ins, monkeypatch):
    intervals = []
    draw = small_sets.figures.one_against_all

    def noted(*args):
        intervals.append(args[-1])
        draw(*args)

    monkeypatch.setattr(small_sets.figures, "one_against_all", noted)
    emoji(vendors, output=tmp_path)
    assert intervals == [False]  # the drawings of a face depend on each other
    assert set(DRAWN) == {(256 // 32, 8)}
    predictions = rows(tmp_path / "emoji.csv")
    assert len(predictions) == 3 * 148
    folds = {(row["item"].split("/")[1], row["fold"]) for row in predictions}
    assert len(folds) == 74
    cells = table(tmp_path / "emoji.md")
    assert float(cells[4]["mean"]) > 90  # the colours tell the emotions
    assert "Left out" not in (tmp_path / "emoji.md").read_text()
    assert_drawn(tmp_path / "emoji.png")


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    return write_mart_set(tmp_path_factory.mktemp("mart"), size=32, shrink=5)


def test_mart(paintings, tmp_path, stand_ins, capsys):
    mart(paintings, networks={"MldrNet": "lite0"}, output=tmp_path)
    names = ("MldrNet", "hand-crafted, SVM", "hand-crafted, Lasso")
    predictions = {name: read_predictions(tmp_path / "mart" / f"{name}.csv") for name in names}
    assert predictions["MldrNet"].classes == ("negative", "positive")
    folds = Split.read(tmp_path / "mart" / "split.json").folds
    cells = {row["method"]: row for row in table(tmp_path / "mart.md")}
    assert list(cells) == [*names, *(f"{name} (published only)" for name in published.MART if name != "MldrNet")]
    for name, right in paired(predictions).items():
        assert cells[name]["correct/tested"] == f"{right.sum()}/100"
        correct = dict(zip(sorted(predictions[name].items), right, strict=True))
        means = [100 * np.mean([correct[item] for item in fold.test]) for fold in folds]
        assert cells[name]["MART, %"] == f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}"
    assert [cells[name]["published"] for name in names] == ["76.40", "-", "-"]
    assert [*cells["Lasso (published only)"].values()][1:] == ["-", "-", "68.20"]
    text = (tmp_path / "mart.md").read_text()
    assert "Published: Rao, Xu & Xu." in text
    assert text in capsys.readouterr().out
    assert_drawn(tmp_path / "mart.png")


def test_nothing_published_stands_beside_invented_labels(paintings, tmp_path, stand_ins, monkeypatch):
    monkeypatch.setattr(small_sets, "write_mart_set", lambda folder: paintings)
    titles = []
    monkeypatch.setattr(small_sets.figures, "by_class", lambda *args: titles.append(args[-1]))
    mart(demo=True, networks={}, output=tmp_path)
    for kind in ("md", "tex"):
        text = (tmp_path / f"mart.{kind}").read_text()
        assert "ublished" not in text
        assert "Rao" not in text
        assert "Generated pictures, invented labels." in text
    assert len(table(tmp_path / "mart.md")) == 2
    assert "Generated pictures, invented labels." in titles[0]


def test_refusals(roots, tmp_path, stand_ins):
    with pytest.raises(ValueError, match=r"root: expected a folder for at least one of artphoto, abstract, iaps"):
        emotions(output=tmp_path)
    with pytest.raises(ValueError, match="root: expected the folder of MART, or --demo true; got none"):
        mart(output=tmp_path)
    with pytest.raises(ValueError, match="min_per_class: expected at least the 5 folds, got 3"):
        emotions(roots, min_per_class=3, output=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="networks: expected 'lite0' or a checkpoint for 'A', got no file 'nowhere'"
    ):
        emotions(roots, networks={"A": "nowhere"}, output=tmp_path)
    with pytest.raises(ValueError, match="networks: expected another name than 'hand-crafted'"):
        mart(roots.iaps, networks={"hand-crafted": "lite0"}, output=tmp_path)
    with pytest.raises(ValueError, match=r"expected two classes of at least 60 items, got \{"):
        emotions(roots, min_per_class=60, output=tmp_path)
    with pytest.raises(ValueError, match=r"root: expected none with --demo true, which generates its pictures, got "):
        emotions(Roots(iaps=roots.iaps), demo=True, output=tmp_path)
    with pytest.raises(ValueError, match=r"root: expected none with --demo true, which generates its pictures, got "):
        mart(roots.iaps, demo=True, output=tmp_path)
    name = "hand-crafted, naive Bayes"
    with pytest.raises(ValueError, match=f"networks: expected names that no other method has, got '{name}'"):
        emotions(roots, networks={name: "lite0"}, min_per_class=6, output=tmp_path)
    assert not DRAWN


@pytest.mark.parametrize("part", ["source", "target"])
def test_what_a_network_was_trained_on_is_not_tested(roots, paintings, vendors, tmp_path, stand_ins, monkeypatch, part):
    """The same folder, that around it, and that of the images in it; by another spelling and in other arguments."""

    def trained_on(folder, argument="root"):
        path = save_photo_checkpoint(tmp_path / "last.ckpt")
        stored = torch.load(path)
        data = {"class_path": "fastmmd.models.data.readers.read_domain", "init_args": {argument: str(folder)}}
        stored["datamodule_hyper_parameters"][part] = data
        torch.save(stored, path)
        return {"output": tmp_path / "out", "networks": {"Seen": str(path)}}

    monkeypatch.chdir(paintings.parent)
    refused = "networks: expected 'Seen' to be trained on other images than those that are tested, got .*last.ckpt"
    cases = (roots.artphoto, roots.artphoto.parent, roots.artphoto / ".." / roots.artphoto.name)
    for folder in (*cases, read_domain("artphoto", str(roots.artphoto)).root):
        with pytest.raises(ValueError, match=refused):
            emotions(Roots(iaps=roots.iaps, artphoto=roots.artphoto), **trained_on(folder), min_per_class=6)
    with pytest.raises(ValueError, match=refused):
        mart(paintings, **trained_on(paintings.name))
    with pytest.raises(ValueError, match=refused):
        emoji(vendors, **trained_on(vendors[1], "folder"))
    assert not DRAWN
    mart(paintings, **trained_on(roots.artphoto))
    assert DRAWN


def test_unreadable_images_may_be_left_out(roots, tmp_path, stand_ins):
    paintings = write_mart_set(tmp_path / "data", size=16, shrink=10)
    domain = read_domain("mart", str(paintings))
    (domain.root / domain.names[7]).write_bytes(b"no picture")
    with pytest.raises(OSError, match=domain.names[7]):
        mart(paintings, folds=5, networks={}, output=tmp_path)
    with pytest.warns(UserWarning, match=domain.names[7]):
        mart(paintings, folds=5, networks={}, skip_unreadable=True, output=tmp_path)
    assert len(read_predictions(tmp_path / "mart" / "hand-crafted, SVM.csv").items) == 49


def test_an_emotion_without_faces(vendors, tmp_path, stand_ins):
    for folder in vendors:
        chars = json.loads((folder / "chars.json").read_text())
        kept = {code: name for code, name in chars.items() if chr(int(code, 16)) not in EMOTIONS["awe"]}
        (folder / "chars.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="folders: expected faces of every emotion, got none of awe"):
        emoji(vendors, output=tmp_path)


def test_kept_scores_are_those_of_their_function(tmp_path, monkeypatch):
    """Neither another function nor other shapes of the same numbers find them."""
    numbers = np.arange(8)
    divided = Divided(numbers, tuple("abcdefgh"), numbers % 2, numbers // 4, ("x", "y"), {}, None)
    methods = [Method("A", "B", "svm")]

    def zeros(name, features, labels, folds):
        return np.zeros(features.shape)

    def ones(name, features, labels, folds):
        return np.ones(features.shape)

    for function, columns, kind in ((zeros, 1, "f8"), (ones, 1, "f8"), (ones, 2, "f4")):
        described = np.zeros((8, columns), kind)  # the same bytes
        features = SimpleNamespace(of=lambda domain, name, described=described: described)
        predictions = predict("set", None, divided, methods, function, features, tmp_path)
        np.testing.assert_array_equal(predictions["A"], function("svm", described, None, None))


def test_scikit_image_is_imported_only_when_it_is_needed():
    code = "import sys, fastmmd.models.small_sets; print('skimage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_command_line(paintings, tmp_path, stand_ins, monkeypatch):
    arguments = ["mart", "--root", str(paintings), "--networks", '{"A": "lite0"}', "--output", str(tmp_path)]
    small_sets.auto_cli([emotions, emoji, mart], args=arguments)
    assert table(tmp_path / "mart.md")[0]["method"] == "A"


def test_folders_of_sets_within_sets(tmp_path):
    """Also where a data set is made of a list of others, as the emoji of several vendors are."""
    sets = [{"class_path": "Emoji", "init_args": {"folder": str(tmp_path / name)}} for name in ("one", "two")]
    data = {
        "source": {"class_path": "Vendors", "init_args": {"sets": sets}},
        "target": {"class_path": "read_domain", "init_args": {"reader": "iaps", "root": str(tmp_path / "iaps")}},
    }
    trained = Trained(nn.Identity(), lambda picture: picture, ("a",), {}, data)
    assert set(trained.folders) == {tmp_path / name for name in ("one", "two", "iaps")}
