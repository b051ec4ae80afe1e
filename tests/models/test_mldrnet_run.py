"""The experiments with MldrNet in miniature, on generated pictures in the layouts of the real sets."""

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from jsonargparse import auto_cli
from PIL import Image

from fastmmd.models import experiment, mldrnet
from fastmmd.models.analysis import figures, filters, published
from fastmmd.models.analysis.metrics import report
from fastmmd.models.analysis.predictions import read_predictions, write_predictions
from fastmmd.models.arms import Weights, compared, transferred
from fastmmd.models.data import layouts
from fastmmd.models.data.demo import write_emotion_sets, write_noisy_fi
from fastmmd.models.data.readers import MIKELS, read_fi
from fastmmd.models.experiment import Run
from fastmmd.models.fixed_features import FixedFeaturesRun
from fastmmd.models.mldrnet import Experiments
from fastmmd.models.trained import load_trained

from .figures import assert_drawn

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
    experiments = Experiments(fi, seeds=[0], output=tmp_path, overrides=SHORT[1:])
    experiments.configs = (*experiments.configs, SHORT[0])
    return experiments


def rows(folder, name):
    """The rows of a Markdown table by their first cell."""
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (folder / f"{name}.md").read_text().splitlines()
        if line.startswith("|")
    ]
    return {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}


@pytest.fixture
def figures_of(monkeypatch):
    """A function that makes a drawing function also keep its first argument, and returns the list of those."""

    def keep(module, name):
        kept, draw = [], getattr(module, name)

        def keeping(first, *rest):
            kept.append(first)
            return draw(first, *rest)

        monkeypatch.setattr(module, name, keeping)
        return kept

    return keep


def test_depth(small, tmp_path, figures_of):
    drawn = figures_of(figures, "sweep")
    small.depth([2, 3], plain=True)
    table = rows(tmp_path, "depth")
    assert list(table) == [
        "MldrNet, 2 layers",
        "MldrNet, 3 layers",
        "one branch, after the last layer, 2 layers",
        "one branch, after the last layer, 3 layers",
        *(f"MldrNet, {depth} layers (published only)" for depth in (4, 5, 6)),
    ]
    assert [row["published"] for row in table.values()] == ["52.12", "58.34", "-", "-", "67.24", "67.55", "67.68"]
    with open(tmp_path / "depth.csv", newline="") as file:
        results = list(csv.DictReader(file))
    first, second, third, fourth = ((float(result["accuracy"]),) for result in results)
    assert drawn == [{"MldrNet": {2: first, 3: second}, "one branch, after the last layer": {2: third, 3: fourth}}]
    assert_drawn(tmp_path / "depth.png")
    for result, row in zip(results, table.values(), strict=False):
        tested = read_predictions(tmp_path / result["folder"] / "predictions.csv")
        assert row["correct/tested"] == f"{tested.correct.sum()}/{len(tested.items)}"
        assert row["well labelled, %"] == f"{100 * tested.correct.mean():.1f}"
        measured = report(tested.labels, tested.probabilities, tested.classes)
        assert row["macro-F1, %"] == f"{100 * measured['macro_f1']:.1f}"
        assert row["positive against negative, %"] == f"{100 * measured['polarity_accuracy']:.1f}"


def test_commands_share_their_runs_and_repeat_none(small, tmp_path, monkeypatch, figures_of):
    drawn, matrices = figures_of(figures, "methods"), figures_of(figures, "confusions")
    small.fusion(["mean", "max"])
    assert rows(tmp_path, "fusion")["min (published only)"] == {
        "well labelled, %": "-",
        "noisy labels, %": "-",
        "correct/tested": "-",
        "macro-F1, %": "-",
        "positive against negative, %": "-",
        "published": "49.32",
    }
    assert [row["published"] for row in rows(tmp_path, "fusion").values()][:2] == ["59.85", "53.68"]
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("a finished run was repeated"))
    small.fusion(["mean", "max"])
    small.depth([4])
    small.methods(["MldrNet"], labels=["well", "noisy"])
    with open(tmp_path / "fusion.csv", newline="") as file:
        mean, peak, noisy_mean, noisy_peak = ((float(result["accuracy"]),) for result in csv.DictReader(file))
    assert drawn[0] == drawn[1]
    assert drawn[0] == {
        "well labelled": {"mean": mean, "max": peak},
        "noisy labels": {"mean": noisy_mean, "max": noisy_peak},
    }
    well, noisy = (matrix["MldrNet"] for matrix in matrices[-2:])  # each run has drawn its own before
    assert [100 * matrix.trace() / matrix.sum() for matrix in (well, noisy)] == pytest.approx([*mean, *noisy_mean])
    for name in ("fusion", "confusion_well", "confusion_noisy"):
        assert_drawn(tmp_path / f"{name}.png")


def test_noisy_training_sets_and_clean_tests(small, fi, tmp_path):
    arms = {"mean": mldrnet.mldrnet()}
    well, noisy = (run.cli(tmp_path).datamodule for run in small._runs({"well": arms, "noisy": arms}))
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


def test_methods(small, tmp_path, figures_of):
    matrices = figures_of(figures, "confusions")
    names = ["T-CNN", "MldrNet + Bi-GRU", "MldrNet + Bi-GRU, contrastive"]
    small.methods(names)
    table = rows(tmp_path, "methods")
    reported = [f"{name} (published only)" for name in published.FI if name not in names]
    assert list(table) == [*names, *reported]
    assert table["Zhao et al. (published only)"]["published"] == "46.52"
    assert [table[name]["published"] for name in names] == ["-", "73.03", "-"]
    assert_drawn(tmp_path / "methods.png")
    assert list(matrices[-1]) == names  # each run has drawn its own before
    with open(tmp_path / "methods.csv", newline="") as file:
        results = list(csv.DictReader(file))
    for result, matrix in zip(results, matrices[-1].values(), strict=True):
        assert (matrix.trace(), matrix.sum()) == (int(result["correct"]), int(result["test_images"]))


def test_pictures(small, tmp_path, monkeypatch):
    """The network is the run's, the images are those that it was tested on, and filters see their centres."""
    calls = []
    strongest = filters.strongest

    def noted(*arguments):
        calls.append(arguments)
        return strongest(*arguments)

    monkeypatch.setattr(filters, "strongest", noted)
    small.pictures(images=3, top=2)
    for name in ("filters", "distributions", "retrieval"):
        assert_drawn(tmp_path / f"{name}.png")
    assert list(rows(tmp_path, "retrieval")) == list(MIKELS)
    ((network, tested, transform, count),) = calls
    (folder,) = (tmp_path / "well" / "mldrnet4-mean").iterdir()
    trained = load_trained(folder / "checkpoints" / "last.ckpt")
    assert count == 2
    for name, value in trained.network.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)
    assert tuple(tested.names) == read_predictions(folder / "predictions.csv").items
    torch.testing.assert_close(transform(tested[0][0]), trained.transform(tested[0][0])[4])


def test_transfer(small, sets, tmp_path):
    small.roots |= write_emotion_sets(sets, size=32, shrink={"artphoto": 10})
    executed = []
    execute = small._execute

    def noted(runs):
        executed.extend(runs)
        return execute(runs)

    small._execute = noted
    small.transfer()
    assert list(rows(tmp_path, "transfer")) == list(transferred(1.0, 1.0))
    assert_drawn(tmp_path / "transfer.png")
    models = {run.method: run.cli(tmp_path).model for run in executed}
    seen = {
        key: model.transfer and (list(model.hparams.layers), model.transfer.joint, list(model.transfer.marginal))
        for key, model in models.items()
    }
    levels = ["level1", "level2", "level3", "level4"]
    assert seen == {
        "mldrnet4-mean-last": None,
        "mldrnet4-mean-last-jmmd": (["level4", "softmax"], 0.3, [0.0, 0.0]),
        "mldrnet4-mean": None,
        "mldrnet4-mean-jmmd-last": (["level4", "softmax"], 0.3, [0.0, 0.0]),
        "mldrnet4-mean-mmd": ([*levels, "softmax"], 0.0, [0.075, 0.075, 0.075, 0.075, 0.0]),
        "mldrnet4-mean-jmmd": ([*levels, "softmax"], 0.3, [0.0] * 5),
    }
    assert all(model.hparams.target_labels == "ignored" for model in models.values())


class Enough(Exception):
    """Ends a command once its runs are known."""


@pytest.fixture
def planned(monkeypatch):
    """The runs of a command, of which none begins."""
    runs = []

    def end(new, output, jobs):
        runs.extend(new)
        raise Enough

    monkeypatch.setattr(mldrnet, "execute_all", end)
    return runs


def test_digits_need_no_root(tmp_path, planned):
    """Both networks, with and without terms, between both pairs of sets; one of the runs is trained."""
    short = ("--data.steps_per_epoch=2", "--trainer.max_epochs=1", *SHORT[-2:])
    with pytest.raises(Enough):
        Experiments(seeds=[0], output=tmp_path, overrides=short).digits()
    assert [(run.task, run.method) for run in planned] == [
        (task, arm.key) for task in ("mnist", "fonts") for arm in transferred(0.3, 0.3, 2).values()
    ]
    result = planned[-1].execute(tmp_path)
    assert (result["steps"], result["target_labels"], result["test_images"]) == (2, "ignored", 899)


def test_nothing_published_stands_beside_invented_labels(fi, tmp_path, monkeypatch):
    monkeypatch.setattr(mldrnet, "write_noisy_fi", lambda root: fi)
    monkeypatch.setattr(mldrnet, "write_emotion_sets", lambda root, shrink: {"artphoto": fi})
    demo = Experiments(demo=True, seeds=[0], output=tmp_path, overrides=SHORT[1:])
    demo.depth([2])
    for file in ("depth.md", "depth.tex"):
        text = (tmp_path / file).read_text()
        assert "ublished" not in text
        assert "Generated pictures, invented labels." in text
    names = []

    def end(arms):
        names.extend(arms["well"])
        raise Enough

    monkeypatch.setattr(demo, "_runs", end)
    with pytest.raises(Enough):
        demo.methods()
    assert names == [name for name in compared(Weights()) if name not in ("AlexNet + SVM", "VGG-19", "ResNet-101")]


def test_what_is_missing_is_named(fi, tmp_path):
    with pytest.raises(ValueError, match="root: expected the folder of Flickr and Instagram"):
        Experiments(output=tmp_path).depth()
    with pytest.raises(ValueError, match="demo: expected no root and artphoto beside it"):
        Experiments(fi, demo=True)
    experiments = Experiments(fi, output=tmp_path)
    with pytest.raises(ValueError, match="artphoto: expected the folder of ArtPhoto"):
        experiments.transfer()
    with pytest.raises(ValueError, match=r"names: expected some of .*A-CNN.*; got AlexNet2$"):
        experiments.methods(["AlexNet2"])
    folders = layouts.write_folders(tmp_path / "folders", [layouts.Picture("awe", Image.new("RGB", (8, 8)))])
    with pytest.raises(FileNotFoundError, match="noisy labels need the votes"):
        Experiments(folders, output=tmp_path).fusion()


def test_command_line(fi, tmp_path, planned):
    args = [f"--root={fi}", "--seeds=[3, 4]", "--jobs=1", f"--output={tmp_path}", "--overrides=[--data.workers=0]"]
    with pytest.raises(Enough):
        auto_cli(Experiments, args=[*args, "methods", "--names=[VGG-19, A-CNN]", "--weights.vgg19=vgg.pth"])
    assert [(run.method, run.seed) for run in planned] == [("vgg19", 3), ("vgg19", 4), ("acnn", 3), ("acnn", 4)]
    assert "--model.network.init_args.backbone.init_args.weights=vgg.pth" in planned[0].args
    assert planned[0].args[-1] == "--data.workers=0"
    with pytest.raises(ValueError, match="args: expected nothing that the run itself sets"):
        auto_cli(Experiments, args=[*args[:-1], "--overrides=[--data.fold=3]", "depth"])


def test_copies_of_tested_images_are_not_trained_on(small, sets, fi, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(fi, folder)
    arms = {"mean": mldrnet.mldrnet()}

    def trained():
        (run,) = small._runs({"noisy": arms})
        data = run.cli(tmp_path).datamodule
        return data, {data.names["source"][item] for item in data.items["source"][0]}

    small.roots["root"] = folder
    data, before = trained()
    tested = data.names["target"][data.test_items[0]]
    copy = min(name for name in before - set(data.names["target"]))
    shutil.copy(data.domains["target"].root / tested, data.domains["source"].root / copy)
    data, after = trained()
    assert before - after == {copy}


@pytest.mark.slow
def test_terms_help_between_digits(tmp_path, monkeypatch):
    monkeypatch.undo()  # in processes of their own
    Experiments(seeds=[0], output=tmp_path).digits()
    accuracies = {name: float(row["MNIST-5k to optdigits, %"]) for name, row in rows(tmp_path, "digits").items()}
    for network in ("one branch", "MldrNet"):
        assert accuracies[f"{network}, no term"] > 30
        assert accuracies[f"{network}, JMMD of last level and softmax"] > accuracies[f"{network}, no term"] + 5


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
    predictions = read_predictions(tmp_path / "runs" / result["folder"] / "predictions.csv")
    data = run.cli(tmp_path / "runs").datamodule
    assert predictions.items == tuple(data.names["target"][item] for item in data.test_items)
    assert predictions.correct.all()
    (file,) = (tmp_path / "runs" / "features").iterdir()
    before = file.stat().st_mtime_ns
    run.execute(tmp_path / "runs")
    assert file.stat().st_mtime_ns == before


def test_predictions_are_read_as_they_are_written(tmp_path):
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    path = tmp_path / "new" / "predictions.csv"
    write_predictions(path, ["x", "y, z", "w"], [1, 1, 0], probabilities, ("a", "b"))
    predictions = read_predictions(path)
    assert predictions.items == ("x", "y, z", "w")
    assert predictions.labels.tolist() == [1, 1, 0]
    assert predictions.predictions.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(predictions.probabilities, probabilities)
