"""The command line, its packaged configurations, and what it writes."""

import csv
import json
import math
import re

import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from fastmmd.models.analysis import figures
from fastmmd.models.cli import CONFIGS, main, packaged
from fastmmd.models.data import Mnist5k
from fastmmd.models.module import TransferTask

from .figures import assert_drawn

SHORT = ["--data.steps_per_epoch=4", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=2"]
SILENT = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def digits(subcommand, method, output, *args):
    main([subcommand, "--config=digits.yaml", f"--config={method}.yaml", f"--output={output}", *SILENT, *args])


@pytest.mark.parametrize("method", ["source_only", "statistics", "target_only", "dan", "jan", "both", "dsan"])
def test_every_method_runs(tmp_path, method):
    digits("fit", method, tmp_path, "--trainer.fast_dev_run=2")


def test_fit_then_test_validate_and_predict(tmp_path, caplog, monkeypatch):
    digits("fit", "both", tmp_path, *SHORT)
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8  # the last step, whatever was best
    task = TransferTask.load_from_checkpoint(last)
    assert (task.transfer.joint, list(task.hparams.classes)) == (0.2, list("0123456789"))
    logs = tmp_path / "logs" / "version_0"
    assert list(logs.glob("events.out.tfevents.*"))
    assert (logs / "config.yaml").is_file()
    with open(logs / "metrics.csv", newline="") as file:
        columns = next(csv.reader(file))
    terms = {"loss", "source_loss", "transfer_loss", "jmmd", "mmd_features", "mmd_softmax", "transfer_gradient"}
    expected = {f"train/{term}" for term in terms | {"bandwidth_features", "bandwidth_softmax"}}
    expected |= {"val/source_accuracy", "val/target_accuracy", "rate/backbone", "rate/new layers"}
    assert expected <= set(columns)

    digits("test", "both", tmp_path)
    assert "of 899); target labels ignored in training; checkpoint: last, not selected" in caplog.text
    assert_drawn(tmp_path / "confusion.png")
    assert_drawn(tmp_path / "per_class.png")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 899
    assert sum(float(rows[0][f"p_{digit}"]) for digit in range(10)) == pytest.approx(1, abs=1e-5)

    best = tmp_path / "checkpoints" / "best.ckpt"
    (tmp_path / "predictions.csv").unlink()
    monkeypatch.chdir(tmp_path.parent)
    digits("predict", "both", tmp_path.name, "--ckpt_path=best")
    assert "checkpoint: best by val/target_accuracy" in caplog.text
    assert (tmp_path / "predictions.csv").is_file()
    digits("validate", "both", tmp_path, f"--ckpt_path={best}")

    # Another method or other data may not go on from these weights, whichever way they are named; more epochs may.
    both = (
        "model.transfer.init_args.joint (0.2, now 1.0); model.transfer.init_args.marginal ([0.3, 0.0], now [0.0, 0.0])"
    )
    for path in ("last", str(last)):
        with pytest.raises(ValueError, match=re.escape(f"choose another --output, or these settings: {both}") + "$"):
            digits("fit", "jan", tmp_path, *SHORT, f"--ckpt_path={path}")
    with pytest.raises(ValueError, match=re.escape("data.source_batch (36, now 35)") + "$"):
        digits("fit", "both", tmp_path, *SHORT, "--ckpt_path=last", "--data.source_batch=35")
    digits("fit", "both", tmp_path, *SHORT, "--ckpt_path=last", "--trainer.max_epochs=3", "--data.workers=1")
    assert torch.load(last, weights_only=True)["global_step"] == 12


def test_checkpoints_without_newer_settings_resume(tmp_path):
    """What an older checkpoint does not name had the value that is now the default; another one is refused."""
    digits("fit", "jan", tmp_path, *SHORT)
    last = tmp_path / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    del stored["hyper_parameters"]["nesterov"], stored["datamodule_hyper_parameters"]["eval_batch"]
    torch.save(stored, last)
    with pytest.raises(ValueError, match=re.escape("model.nesterov (True, now False)") + "$"):
        digits("fit", "jan", tmp_path, *SHORT, "--ckpt_path=last", "--model.nesterov=false")
    digits("test", "jan", tmp_path)
    digits("fit", "jan", tmp_path, *SHORT, "--ckpt_path=last", "--trainer.max_epochs=3")
    assert torch.load(last, weights_only=True)["global_step"] == 12


def test_dsan_from_its_configuration(tmp_path, monkeypatch):
    """Its weight grows from step to step, also behind a recipe without a ramp; a run of it can be resumed."""
    weights, objective = [], TransferTask.objective

    def weighted(task, batch, weight=1.0, trace=False):
        weights.append(weight)
        return objective(task, batch, weight, trace)

    monkeypatch.setattr(TransferTask, "objective", weighted)
    config = ["--config=digits.yaml", "--model.ramp=false", "--config=dsan.yaml", f"--output={tmp_path}", *SILENT]
    main(["fit", *config, *SHORT])
    assert weights == pytest.approx([2 / (1 + math.exp(-10 * step / 8)) - 1 for step in range(8)], abs=1e-12)
    with open(tmp_path / "logs" / "version_0" / "metrics.csv", newline="") as file:
        columns = next(csv.reader(file))
    terms = ("transfer_loss", "local_jmmd", "local_mmd_features", "bandwidth_features", "transfer_gradient")
    assert {f"train/{term}" for term in terms} <= set(columns)
    main(["test", *config])
    main(["fit", *config, *SHORT, "--trainer.max_epochs=3", "--ckpt_path=last"])
    assert weights[8:] == pytest.approx([2 / (1 + math.exp(-10 * step / 12)) - 1 for step in range(8, 12)], abs=1e-12)
    with pytest.raises(
        ValueError, match=r"model.transfer.class_path \('fastmmd.LMMDLoss', now 'fastmmd.TransferLoss'\)"
    ):
        digits("fit", "jan", tmp_path, *SHORT, "--ckpt_path=last")


@pytest.mark.parametrize(
    ("subcommand", "path"),
    [("test", None), ("validate", None), ("predict", None), ("test", "last"), ("test", "best"), ("fit", "other.ckpt")],
)
def test_untrained_weights_are_not_evaluated(tmp_path, subcommand, path):
    name = "other.ckpt" if path == "other.ckpt" else str(tmp_path / "checkpoints" / f"{path or 'last'}.ckpt")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{subcommand}: no checkpoint {name}")):
        digits(subcommand, "jan", tmp_path, *([] if path is None else [f"--ckpt_path={path}"]))


def test_without_validation_items_nothing_is_best(tmp_path):
    digits("fit", "source_only", tmp_path, *SHORT, "--data.target_validation=0", "--trainer.log_every_n_steps=0")
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    with pytest.raises(FileNotFoundError, match=r"best.ckpt; without validation items .* nothing is best"):
        digits("test", "source_only", tmp_path, "--ckpt_path=best", "--data.target_validation=0")


def test_configurations_have_outputs_of_their_own():
    for file in CONFIGS.glob("*.yaml"):
        assert f"output: runs/{file.stem}" in file.read_text()


def test_image_folders(tmp_path):
    for domain, shade in (("source", 90), ("target", 160)):
        for number, name in enumerate(("awe", "fear")):
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for k in range(8):
                mode, size = ("L", (70, 50)) if k == 0 else ("RGB", (50 + k, 60))
                Image.new(mode, size, shade + 10 * number).save(folder / f"{k}.jpg")
    settings = {
        "model": {"network": {"init_args": {"backbone": {"init_args": {"weights": "none"}}}}},
        "data": {
            **{domain: {"init_args": {"root": str(tmp_path / domain)}} for domain in ("source", "target")},
            **{f"{kind}_transform": {"init_args": {"resize": 64, "crop": 64}} for kind in ("train", "eval")},
            **{"source_batch": 4, "target_batch": 3, "workers": 0, "steps_per_epoch": 1},
            **{"source_validation": 0.2, "target_validation": 0.2, "target_test": 0.2},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "own.yaml").write_text(json.dumps(settings))
    args = ["--config=folders.yaml", "--config=both.yaml", f"--config={tmp_path / 'own.yaml'}", *SILENT]
    main(["fit", *args])
    main(["predict", *args])
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        items = [row["item"] for row in csv.DictReader(file)]
    assert len(items) == 4
    assert all((tmp_path / "target" / item).is_file() for item in items)


@pytest.mark.parametrize("subcommand", [None, "inspect", "fit", "validate", "test", "predict"])
def test_help_fits_a_screen(capsys, subcommand):
    with pytest.raises(SystemExit) as end:
        main([*filter(None, [subcommand]), "--help"])
    assert end.value.code in (None, 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert f"python -m fastmmd.models {subcommand or 'COMMAND'} --config" in text
    for file in CONFIGS.glob("*.yaml"):
        assert file.name in text
    assert re.search(r"--data.target_test +0.5 ", text)
    assert "--help=all" in text


def test_help_of_everything(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help=all"])
    assert end.value.code in (None, 0)
    text = capsys.readouterr().out
    for option in ("--data.split_seed", "--trainer.gradient_clip_val", "--best.every_n_epochs"):
        assert option in text


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["fit", "--data.steps_per_epok=3"], "near to --data.steps_per_epok: --data.steps_per_epoch"),
        (["fit", "--data.steps_per_epok", "3"], "near to --data.steps_per_epok: --data.steps_per_epoch"),
        (["test", "--outputt=x"], "near to --outputt: --output"),
        (["fit", "--steps_per_epoch=3"], "near to --steps_per_epoch: --data.steps_per_epoch"),
        (["fit", "--data.sorce.root=x"], "near to --data.sorce.root: --data.source.root"),
        (["fit", "--data.source.fols=x"], "near to fols: folds"),
        (["fit", "--data.source.init_args.fols=x"], "near to fols: folds"),
        (
            ["fit", "--model.network.backbone=fastmmd.models.networks.ResNet50", "--model.network.backbone.weigts=x"],
            "near to weigts: weights",
        ),
        (["fit", "--model.network.xyz=1"], "accepted: backbone, num_classes, width, "),
        (["fit", "--qqqq=1"], "nothing is near to --qqqq; --help=all lists all options"),
        (["fit", "--data.source=fastmmd.models.data.Mnist5"], "near to fastmmd.models.data.Mnist5: Mnist5k"),
        (["fit", "--config=jam.yaml"], "near to it among the packaged configurations: jan.yaml"),
        (["fit", "jan.yaml"], "a configuration takes its option: --config jan.yaml"),
        (["fitt"], "near to fitt: fit"),
        (["inspct"], "near to inspct: inspect"),
        (["fit", "--config={data: {steps_per_epok: 3}}"], "near to --data.steps_per_epok: --data.steps_per_epoch"),
        (["fit", "--config={modell: {ramp: true}}"], "near to --modell.ramp: --model.ramp"),
        (["fit", "--config={data: {source: {init_args: {fols: 3}}}}"], "near to fols: folds"),
    ],
)
def test_wrong_words_name_near_ones(tmp_path, capsys, args, near):
    subcommand, *args = args
    written = []
    for number, arg in enumerate(args):  # a configuration's content stands for its file
        if arg.startswith("--config={"):
            (tmp_path / f"{number}.yaml").write_text(arg.removeprefix("--config="))
            arg = f"--config={tmp_path / f'{number}.yaml'}"
        written.append(arg)
    config = tmp_path / "own.yaml"
    config.write_text("{data: {source: {class_path: tests.models.test_cli.Folded}}}")
    with pytest.raises(SystemExit) as end:
        main([subcommand, "--config=digits.yaml", f"--config={config}", *written])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 25
    assert any(line.strip().startswith(near) for line in lines)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"data:\n\tseed: 1\n", "no YAML: .*line 2"),
        (b"", "expected settings, .* got None"),
        (b"jan.yaml", "expected settings, .* got 'jan.yaml'"),
        ("data: {split: 'é.json'}".encode("latin-1"), "expected UTF-8, got byte 15 otherwise"),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_file_that_is_no_configuration_is_named(tmp_path, capsys, content, told, apart):
    (tmp_path / "own.yaml").write_bytes(content)
    option = ["--config", str(tmp_path / "own.yaml")] if apart else [f"--config={tmp_path / 'own.yaml'}"]
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config=digits.yaml", *option])
    assert end.value.code == 2
    assert re.search(rf"configuration {tmp_path / 'own.yaml'}: {told}", capsys.readouterr().err, re.DOTALL)


class Folded(Mnist5k):
    """A data set with an argument."""

    def __init__(self, folds: int = 1):
        super().__init__()


def test_options_before_the_subcommand(capsys):
    for args, advice in ((["--config=digits.yaml", "fit"], "stand behind the subcommand"), (["fit"], "a recipe sets")):
        with pytest.raises(SystemExit, match="2"):
            main(args)
        assert advice in capsys.readouterr().err


def test_packaged_configurations_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jan = str(CONFIGS / "jan.yaml")
    assert packaged(["fit", "--config", "jan.yaml", "--config=jan.yaml", "-c", "none.yaml"]) == [
        *("fit", "--config", jan, f"--config={jan}", "-c", "none.yaml")
    ]
    (tmp_path / "jan.yaml").write_text("{}")
    assert packaged(["--config=jan.yaml"]) == ["--config=jan.yaml"]  # a file here goes first


def test_figure_of_methods(tmp_path):
    figures.methods({"task": {"one": [50.0, 60.0], "two": [70.0]}}, "title", tmp_path / "methods.png")
    assert_drawn(tmp_path / "methods.png")


def test_figure_of_long_class_names(tmp_path):
    classes = ["amusement", "contentment", "sadness"]
    matrix = torch.tensor([[8, 1, 1], [0, 0, 0], [2, 3, 5]]).numpy()  # a class without images
    figures.confusions({"a": matrix, "b": matrix, "c": matrix}, classes, tmp_path / "confusions.png", "title")
    figures.per_class(matrix, classes, "title", tmp_path / "per_class.png")
    assert_drawn(tmp_path / "confusions.png")
    assert_drawn(tmp_path / "per_class.png")


def test_figures_of_many_classes_have_few_texts_and_pixels(tmp_path, monkeypatch):
    """Texts are what takes long to draw: one per class and bar, none per cell."""
    classes = [f"class number {k}" for k in range(65)]
    matrix = torch.eye(65, dtype=torch.int64).numpy()
    texts, save = [], figures.save

    def counted(figure, path):
        texts.append(len(figure.findobj(Text)))
        save(figure, path)

    monkeypatch.setattr(figures, "save", counted)
    figures.confusions({"a": matrix}, classes, tmp_path / "cells.png")
    figures.per_class(matrix, classes, "title", tmp_path / "bars.png")
    assert max(texts) < 5 * len(classes)
    for name in ("cells.png", "bars.png"):
        with Image.open(tmp_path / name) as image:
            assert max(image.size) <= 2000


def test_long_class_names_have_room(tmp_path):
    matrix = torch.eye(2, dtype=torch.int64).numpy()
    widths = []
    for length in (5, 60):
        figures.per_class(matrix, ["a" * length, "b"], "title", tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as image:
            widths.append(image.width)
    assert widths[1] > widths[0] + 500


def test_mixed_precision_is_tested_and_predicted(tmp_path):
    digits("fit", "jan", tmp_path, *SHORT, "--trainer.precision=bf16-mixed")
    for subcommand in ("test", "predict"):
        digits(subcommand, "jan", tmp_path, "--trainer.precision=bf16-mixed")
        with open(tmp_path / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        sums = [sum(float(row[f"p_{digit}"]) for digit in range(10)) for row in rows]
        assert sums == pytest.approx([1] * 899, abs=1e-5)


def test_no_output_is_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits("fit", "source_only", "", *SHORT)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    digits("test", "source_only", "")
    assert (tmp_path / "predictions.csv").is_file()
