"""The experiments with MldrNet in miniature, on generated pictures in the layouts of the real sets."""

import csv
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fastmmd.models import experiment, mldrnet
from fastmmd.models.analysis import published
from fastmmd.models.analysis.predictions import read_predictions, write_predictions
from fastmmd.models.arms import Weights, compared, transferred
from fastmmd.models.data import layouts
from fastmmd.models.data.demo import write_emotion_sets, write_noisy_fi
from fastmmd.models.data.readers import MIKELS, read_fi
from fastmmd.models.experiment import Run
from fastmmd.models.fixed_features import FixedFeaturesRun
from fastmmd.models.mldrnet import Experiments

SHORT = (
    "--config=mldrnet_small.yaml",
    *(f"--data.{part}_transform.init_args.{side}=32" for part in ("train", "eval") for side in ("resize", "crop")),
    *("--data.source_batch=4", "--data.target_batch=4", "--data.steps_per_epoch=2"),
    *("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def fi(sets):
    return write_noisy_fi(sets, size=32, shrink=150)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))


@pytest.fixture
def small(fi, tmp_path, monkeypatch):
    """The experiments on generated pictures as if they were the real set, with the small network and two steps."""
    found = Experiments(fi, seeds=[0], output=tmp_path, overrides=SHORT[1:])
    found.configs = (*found.configs, SHORT[0])
    return found


def rows(folder, name):
    """The rows of a Markdown table by their first cell."""
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (folder / f"{name}.md").read_text().splitlines()
        if line.startswith("|")
    ]
    return {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}


def drawn(path):
    with Image.open(path) as image:
        return len(image.convert("L").getcolors()) > 10


def test_depth(small, tmp_path):
    small.depth([2, 3], plain=True)
    found = rows(tmp_path, "depth")
    assert list(found) == [
        "MldrNet, 2 layers",
        "MldrNet, 3 layers",
        "one branch, after the last layer, 2 layers",
        "one branch, after the last layer, 3 layers",
        *(f"MldrNet, {depth} layers (published only)" for depth in (4, 5, 6)),
    ]
    assert [row["published"] for row in found.values()] == ["52.12", "58.34", "-", "-", "67.24", "67.55", "67.68"]
    assert drawn(tmp_path / "depth.png")
    with open(tmp_path / "depth.csv", newline="") as file:
        results = list(csv.DictReader(file))
    for result, row in zip(results, found.values(), strict=False):
        tested = read_predictions(tmp_path / result["folder"] / "predictions.csv")
        assert row["correct/tested"] == f"{tested.correct.sum()}/{len(tested.items)}"
        assert row["well labelled, %"] == f"{100 * tested.correct.mean():.1f}"


def test_commands_share_their_runs_and_repeat_none(small, tmp_path, monkeypatch):
    small.fusion(["mean", "max"])
    assert rows(tmp_path, "fusion")["min (published only)"] == {
        "well labelled, %": "-",
        "noisy labels, %": "-",
        "correct/tested": "-",
        "published": "49.32",
    }
    assert [row["published"] for row in rows(tmp_path, "fusion").values()][:2] == ["59.85", "53.68"]
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("a finished run was repeated"))
    small.fusion(["mean", "max"])
    small.depth([4])
    small.methods(["MldrNet"], labels=["well", "noisy"])
    assert drawn(tmp_path / "fusion.png")
    assert drawn(tmp_path / "confusion_well.png")
    assert drawn(tmp_path / "confusion_noisy.png")


def test_noisy_training_sets_and_clean_tests(small, fi, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(small, "_execute", asked.extend)
    small._trained({"well": {"mean": mldrnet.mldrnet()}, "noisy": {"mean": mldrnet.mldrnet()}})
    well, noisy = (run.cli(tmp_path).datamodule for run in asked)
    accepted = set(read_fi(fi).names)
    assert [well.names["target"][item] for item in well.test_items] == [
        noisy.names["target"][item] for item in noisy.test_items
    ]
    held_out = {noisy.names["target"][item] for item in (*noisy.test_items, *noisy.items["target"][1])}
    trained = [noisy.names["source"][item] for item in noisy.items["source"][0]]
    assert held_out.isdisjoint(trained)
    assert held_out <= accepted
    wrong = sum(name not in accepted for name in trained)
    assert wrong / len(trained) == pytest.approx(0.779, abs=0.02)  # small classes are rounded
    assert {well.names["source"][item] for item in well.items["source"][0]} == accepted - held_out
    assert accepted - held_out <= set(trained)


def test_methods(small, tmp_path):
    names = ["Machajdik & Hanbury + SVM", "AlexNet + SVM", "A-CNN", "T-CNN", "MldrNet + Bi-GRU"]
    names.append("MldrNet + Bi-GRU, contrastive")
    small.overrides = tuple(option.replace("=32", "=64") for option in small.overrides)  # AlexNet takes no smaller ones
    small.methods(names, weights=Weights(alexnet_svm="none"))
    found = rows(tmp_path, "methods")
    reported = [f"{name} (published only)" for name in published.FI if name not in names]
    assert list(found) == [*names, *reported]
    assert found["Zhao et al. (published only)"]["published"] == "46.52"
    assert found["MldrNet + Bi-GRU"]["published"] == "73.03"
    assert drawn(tmp_path / "methods.png")
    assert drawn(tmp_path / "confusion_well.png")
    with open(tmp_path / "methods.csv", newline="") as file:
        steps = {row["method"]: row["steps"] for row in csv.DictReader(file)}
    assert steps["handcrafted"] == steps["alexnet-svm"] == "0"
    assert steps["mldrnet4-gru-contrastive"] == "2"


def test_pictures(small, tmp_path):
    small.pictures(images=3, top=2)
    for name in ("filters", "distributions", "retrieval"):
        assert drawn(tmp_path / f"{name}.png")
    assert list(rows(tmp_path, "retrieval")) == list(MIKELS)


def test_transfer(small, sets, tmp_path):
    small.roots |= write_emotion_sets(sets, size=32, shrink={"artphoto": 10})
    asked = []
    execute = small._execute
    small._execute = lambda runs: [asked.extend(runs), execute(runs)][1]
    small.transfer()
    assert list(rows(tmp_path, "transfer")) == list(transferred(1.0, 1.0))
    assert drawn(tmp_path / "transfer.png")
    models = {run.method: run.cli(tmp_path).model for run in asked}
    seen = {
        key: model.transfer and (list(model.hparams.layers), model.transfer.joint, list(model.transfer.marginal))
        for key, model in models.items()
    }
    levels = ["level1", "level2", "level3", "level4"]
    assert seen == {
        "mldrnet4-last": None,
        "mldrnet4-last-jmmd": (["level4", "softmax"], 1.0, [0.0, 0.0]),
        "mldrnet4-mean": None,
        "mldrnet4-mean-jmmd-last": (["level4", "softmax"], 1.0, [0.0, 0.0]),
        "mldrnet4-mean-mmd": ([*levels, "softmax"], 0.0, [0.25, 0.25, 0.25, 0.25, 0.0]),
        "mldrnet4-mean-jmmd": ([*levels, "softmax"], 1.0, [0.0] * 5),
    }
    assert all(model.hparams.target_labels == "ignored" for model in models.values())


def test_nothing_published_stands_beside_invented_labels(fi, tmp_path, monkeypatch):
    monkeypatch.setattr(mldrnet, "write_noisy_fi", lambda root: fi)
    monkeypatch.setattr(mldrnet, "write_emotion_sets", lambda root, shrink: {"artphoto": fi})
    demo = Experiments(demo=True, seeds=[0], output=tmp_path, overrides=SHORT[1:])
    demo.depth([2])
    for file in ("depth.md", "depth.tex"):
        text = (tmp_path / file).read_text()
        assert "ublished" not in text
        assert "Generated pictures, invented labels." in text
    known = []
    monkeypatch.setattr(demo, "_trained", lambda arms: known.extend(arms["well"]) or pytest.skip("enough"))
    with pytest.raises(pytest.skip.Exception):
        demo.methods()
    assert known == [name for name in compared(Weights()) if name not in ("AlexNet + SVM", "VGG-19", "ResNet-101")]


def test_what_is_missing_is_named(fi, tmp_path):
    with pytest.raises(ValueError, match="root: expected the folder of Flickr and Instagram"):
        Experiments(output=tmp_path).depth()
    found = Experiments(fi, output=tmp_path)
    with pytest.raises(ValueError, match="artphoto: expected the folder of ArtPhoto"):
        found.transfer()
    with pytest.raises(ValueError, match=r"names: expected some of .*A-CNN.*; got AlexNet2$"):
        found.methods(["AlexNet2"])
    folders = layouts.write_folders(tmp_path / "folders", [layouts.Picture("awe", Image.new("RGB", (8, 8)))])
    with pytest.raises(FileNotFoundError, match="noisy labels need the votes"):
        Experiments(folders, output=tmp_path).fusion()


@pytest.mark.parametrize(("features", "estimator"), [("hand-crafted", "svm"), ("network", "logistic")])
def test_fixed_features_of_classes_that_are_colours(tmp_path, features, estimator):
    """Every test image is right, the predictions are those of the split, and a second run computes no features."""
    random = np.random.default_rng(0)
    colours = dict(zip(MIKELS, random.integers(40, 215, (8, 3)), strict=True))

    def pictures():
        for name in MIKELS * 20:
            values = colours[name] + random.integers(-8, 9, (32, 32, 3))
            yield layouts.Picture(name, Image.fromarray(values.astype(np.uint8)), (0, 5))

    layouts.write_fi(tmp_path / "fi", pictures())
    roots = [f"--data.{domain}.root={tmp_path / 'fi'}" for domain in ("source", "target")]
    args = ("--config=mldrnet.yaml", *SHORT, *roots)
    run = FixedFeaturesRun("well", "fixed", 0, args, fold=0, features=features, estimator=estimator)
    result = run.execute(tmp_path / "runs")
    assert (result["accuracy"], result["correct"], result["test_images"], result["steps"]) == (100.0, 24, 24, 0)
    assert run.result(tmp_path / "runs") == result
    found = read_predictions(tmp_path / "runs" / result["folder"] / "predictions.csv")
    assert (len(found.items), found.correct.all()) == (24, True)
    (file,) = (tmp_path / "runs" / "features").iterdir()
    before = file.stat().st_mtime_ns
    run.execute(tmp_path / "runs")
    assert file.stat().st_mtime_ns == before


def test_predictions_are_read_as_they_are_written(tmp_path):
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    path = tmp_path / "new" / "predictions.csv"
    write_predictions(path, ["x", "y, z", "w"], [1, 1, 0], probabilities, ("a", "b"))
    found = read_predictions(path)
    assert found.items == ("x", "y, z", "w")
    assert found.labels.tolist() == [1, 1, 0]
    assert found.predictions.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found.probabilities, probabilities)
