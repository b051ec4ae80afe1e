"""The experiments on image emotions, on generated pictures in the layouts of the real sets."""

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from fastmmd.models import emotion, experiment
from fastmmd.models.cli import TransferCLI
from fastmmd.models.data import layouts
from fastmmd.models.data.demo import write_emotion_sets
from fastmmd.models.data.folds import Split
from fastmmd.models.data.readers import MIKELS
from fastmmd.models.emotion import METHODS, TASKS, Roots, compare, method_args, sweep_args, task_args
from fastmmd.models.experiment import Run
from fastmmd.models.module import TransferTask

from .figures import assert_drawn

SHRINK = {"fi": 100, "artphoto": 5, "iaps": 2}
SILENT = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
SHORT = (
    *(f"--data.{part}_transform.init_args.{side}=32" for part in ("train", "eval") for side in ("resize", "crop")),
    *("--data.source_batch=4", "--data.target_batch=3", "--data.steps_per_epoch=2", "--data.workers=0"),
    *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
    "--model.network.init_args.backbone.init_args.weights=none",
)
SMALL = (
    "--model.network.init_args.backbone=fastmmd.models.networks.Torchvision",
    "--model.network.init_args.backbone.init_args.name=resnet18",
    *SHORT,
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return Roots(**write_emotion_sets(tmp_path_factory.mktemp("sets"), size=32, shrink=SHRINK))


def cells(*args):
    """A run's settings on the command line of one run."""
    return ["--config=emotion.yaml", *args, *SHORT, *SILENT]


@pytest.mark.parametrize(("task", "method"), [*zip(TASKS, METHODS, strict=False), ("fi_iaps", "ours")])
def test_every_task_and_method_takes_a_step_on_resnet50(roots, tmp_path, task, method):
    args = cells(*task_args(task, roots), *method_args(method), "--trainer.fast_dev_run=1", f"--output={tmp_path}")
    cli = TransferCLI(args, run=False)
    assert [cli.model.hparams.source_labels, cli.model.hparams.target_labels] == [
        "ignored" if method == "ctd" else "used",
        "used",
    ]
    term = cli.model.transfer
    weights = {"dan": (0.0, [1.0, 0.0]), "jan": (1.0, [0.0, 0.0]), "ours": (0.2, [0.3, 0.0])}
    assert (term and (term.joint, term.marginal)) == weights.get(method)
    assert cli.datamodule.classes == list(MIKELS)
    tested = {cli.datamodule.domains["target"].targets[item] for item in cli.datamodule.test_items}
    assert (MIKELS.index("anger") in tested) == task.endswith("artphoto")
    before = cli.model.network.backbone.model.conv1.weight.clone()
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 1
    assert not torch.equal(cli.model.network.backbone.model.conv1.weight, before)


def test_unreadable_image_stops_or_is_left_out(roots, tmp_path):
    folder = tmp_path / "iaps"
    shutil.copytree(roots.iaps, folder)
    layouts.truncate(folder / "1040.jpg")
    args = cells(*task_args("fi_iaps", replace(roots, iaps=folder)), *method_args("ctd"), f"--output={tmp_path}")
    with pytest.raises(OSError, match=rf"1 of 191 images cannot be read:\n  {folder / '1040.jpg'}: "):
        TransferCLI(args, run=False)
    with pytest.warns(UserWarning, match=rf"left out 1 unreadable images of 191:\n  {folder / '1040.jpg'}: "):
        cli = TransferCLI([*args, "--data.target.skip_unreadable=true"], run=False)
    assert "1040.jpg" not in cli.datamodule.split.labels


def test_resumed_fold_equals_uninterrupted_one(roots, tmp_path, monkeypatch):
    args = (*cells(*task_args("iaps_artphoto", roots), *method_args("ours")), *SMALL)
    run = Run("iaps_artphoto", "ours", 0, args, fold=3)
    whole = run.execute(tmp_path / "whole")
    step = TransferTask.training_step

    def failing_step(task, batch, batch_idx):
        if task.global_step == 3:
            raise ConnectionError("the power went out")
        return step(task, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TransferTask, "training_step", failing_step)
        with pytest.raises(ConnectionError):
            run.execute(tmp_path / "parts")
    resumed = run.execute(tmp_path / "parts")
    folders = [tmp_path / name / whole["folder"] for name in ("whole", "parts")]
    assert (resumed["fold"], resumed["correct"], resumed["steps"]) == (3, whole["correct"], 4)
    for name in ("predictions.csv", "split.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    for name in ("features_before.npz", "features.npz"):
        arrays = [np.load(folder / name) for folder in folders]
        assert set(arrays[0]) == {"source", "source_labels", "target", "target_labels", "classes"}
        assert arrays[0]["source"].shape == arrays[0]["target"].shape == (whole["test_images"], 256)
        assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0])
    split = Split.read(folders[0] / "split.json")
    assert len(split.folds) == 5
    with open(folders[0] / "predictions.csv", newline="") as file:
        assert tuple(row["item"] for row in csv.DictReader(file)) == split.folds[3].test


def table(folder, name):
    """The cells of a Markdown table by row and column."""
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (folder / name).read_text().splitlines()
        if line.startswith("|")
    ]
    return {(row[0], row[1]): dict(zip(header[2:], row[2:], strict=True)) for row in rows}


def in_this_process(monkeypatch):
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))


def test_miniature_table(roots, tmp_path, monkeypatch, capsys):
    in_this_process(monkeypatch)
    settings = {"tasks": ["iaps_artphoto"], "folds": [1], "overrides": (*SMALL, *SILENT)}
    compare(roots, methods=["ctd", "ours"], output=tmp_path, **settings)
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.rglob("result.json"))]
    assert [(result["method"], result["fold"], result["test_images"]) for result in results] == [
        ("ctd", 1, 22),
        ("ours", 1, 22),
    ]
    accuracies = table(tmp_path, "table2.md")
    pooled = {
        name: f"{100 * result['correct'] / 22:.2f} ({result['correct']}/22)"
        for name, result in zip(("CTD", "Ours"), results, strict=True)
    }
    assert accuracies["I->A", "pooled"] == pooled
    assert accuracies["I->A", "published"] == {"CTD": "30.77", "Ours": "39.15"}
    pairs = (tmp_path / "pairs_iaps_artphoto.md").read_text()
    assert "He & Ding's table 2" in pairs
    text = (tmp_path / "table2.md").read_text()
    assert text in capsys.readouterr().out
    assert "Target labels used in training. Checkpoint: last, not selected. Steps: 4." in text
    assert r"I$\to$A" in (tmp_path / "table2.tex").read_text()
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all((tmp_path / row["folder"] / "predictions.csv").is_file() for row in rows)
    for name in ("accuracy", "classes_iaps_artphoto", "confusion_iaps_artphoto", "domains_iaps_artphoto"):
        assert_drawn(tmp_path / f"{name}.png")
    assert (tmp_path / "pairs_iaps_artphoto.md").is_file()

    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    compare(roots, methods=["ctd", "ours"], output=tmp_path, **settings)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")} == times


def test_sweep(roots, tmp_path, monkeypatch):
    planned = []

    def execute_all(runs, output, jobs):
        planned.extend(runs)
        common = {"correct": 1, "test_images": 4, "accuracy": 25.0, "folder": "none"}
        common |= {"target_labels": "used", "checkpoint": "last", "steps": 1}
        return [{"task": run.task, "method": run.method, "fold": run.fold, "seed": 0} | common for run in runs]

    monkeypatch.setattr(emotion, "execute_all", execute_all)
    compare(roots, tasks=["fi_iaps"], folds=[0, 1], sweep="eta", output=tmp_path)
    assert [run.method for run in planned] == [
        f"eta{eta}" for eta in ("0", "0.1", "0.2", "0.3", "0.4", "0.5") for _ in "01"
    ]
    for text, weights in (("0.3", (0.7, [0.3, 0.0])), ("0", (1.0, [0.0, 0.0]))):
        args = cells(*task_args("fi_iaps", roots), *sweep_args(float(text)), f"--output={tmp_path}")
        term = TransferCLI(args, run=False).model.transfer
        assert (term.joint, term.marginal) == weights
    assert table(tmp_path, "sweep.md")["F->I", "pooled"]["eta 0.5"] == "25.00 (2/8)"
    assert_drawn(tmp_path / "sweep.png")


def test_nothing_published_stands_beside_invented_labels(roots, tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    monkeypatch.setattr(emotion, "write_emotion_sets", lambda folder: asdict(roots))
    settings = {"tasks": ["iaps_artphoto"], "methods": ["ctd", "ours"], "folds": [1], "overrides": (*SHORT, *SILENT)}
    compare(demo=True, output=tmp_path, **settings)
    for file in ("table2.md", "table2.tex", "pairs_iaps_artphoto.md"):
        text = (tmp_path / file).read_text()
        assert "Ding" not in text
        assert "ublished" not in text
    assert "Generated pictures, invented labels." in (tmp_path / "table2.md").read_text()
    assert "iaps_artphoto" in (tmp_path / "results.csv").read_text()


def test_data_sets_without_a_root_are_named():
    with pytest.raises(ValueError, match=r"got none for --root.fi, --root.iaps$"):
        compare(Roots(artphoto="pictures"))


def test_demonstration_writes_sets_once(tmp_path):
    first = write_emotion_sets(tmp_path, size=32, shrink=SHRINK)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert write_emotion_sets(tmp_path, size=32, shrink=SHRINK) == first
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


@pytest.mark.slow
def test_whole_table_on_generated_pictures(roots, tmp_path):
    compare(roots, folds=[0, 1], output=tmp_path, jobs=2, overrides=SMALL)
    accuracies = table(tmp_path, "table2.md")
    assert len(accuracies) == 12
    for task in TASKS.values():
        assert list(accuracies[task, "pooled"]) == list(METHODS.values())
        assert all("±" in cell for cell in accuracies[task, "mean of runs"].values())
