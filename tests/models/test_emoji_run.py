"""Transfer between two vendors' emoji: the command, on toy icon sets."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
import torch
from PIL import Image

from fastmmd.models import experiment
from fastmmd.models.cli import TransferCLI
from fastmmd.models.data import emoji as drawings
from fastmmd.models.data.emoji import GROUPS
from fastmmd.models.emoji import compare

SMALL = (
    *(f"--data.{domain}.size=32" for domain in ("source", "target")),
    *(f"--data.eval_transform.init_args.{side}=32" for side in ("resize", "crop")),
    *("--data.source_batch=4", "--data.target_batch=3", "--data.steps_per_epoch=2", "--trainer.max_epochs=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    "--model.network.init_args.backbone=fastmmd.models.networks.Torchvision",
    "--model.network.init_args.backbone.init_args={name: resnet18, weights: none}",
)


@pytest.fixture
def icon_sets(tmp_path, monkeypatch):
    """Two sets of the same 160 emoji, 20 in each group; every drawing is a square in its vendor's grey."""
    names = {group: [f"{k}-{n}" for n in range(20)] for k, group in enumerate(GROUPS)}
    every = [name for group in names.values() for name in group]
    for vendor in ("first", "second"):
        content = {
            "icons": {"prefix": vendor, "icons": {name: {"body": f"{vendor} {name}"} for name in every}},
            "metadata": {"categories": names},
            "chars": {f"{0x1F000 + k:x}": name for k, name in enumerate(every)},
        }
        (tmp_path / vendor).mkdir()
        for name, value in content.items():
            (tmp_path / vendor / f"{name}.json").write_text(json.dumps(value))

    def draw(svg, size):
        file = BytesIO()
        Image.new("RGBA", (size, size), (*[64 if "first" in svg else 192] * 3, 255)).save(file, "PNG")
        return file.getvalue()

    monkeypatch.setattr(drawings, "_draw", draw)
    return tmp_path / "first", tmp_path / "second"


def test_tested_emoji_are_not_in_the_source(icon_sets, tmp_path):
    folders = [f"--data.{d}.folder={folder}" for d, folder in zip(("source", "target"), icon_sets, strict=True)]
    cli = TransferCLI(["--config=emoji.yaml", *folders, *SMALL, f"--output={tmp_path / 'run'}"], run=False)
    data = cli.datamodule
    tested = {data.names["target"][item] for item in data.test_items}
    assert len(tested) == 24
    assert not tested & {data.names["source"][item] for item in data.items["source"][0]}
    assert not any(weight.requires_grad for weight in cli.model.network.backbone.parameters())
    assert cli.model.hparams.target_labels == "ignored"


def test_comparison(icon_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))
    output = tmp_path / "run"
    cache = tmp_path / "cache"
    compare(*icon_sets, methods=["source_only", "both"], folds=[0], output=output, cache=cache, overrides=SMALL)
    with open(output / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["test_images"], row["target_labels"]) for row in rows] == [
        ("source_only", "24", "ignored"),
        ("both", "24", "ignored"),
    ]
    text = (output / "results.md").read_text()
    assert "| task | accuracy, % | no transfer term | He & Ding |" in text
    assert "| first to second | pooled |" in text
    assert len(list((cache / "drawings").rglob("*.png"))) == 2 * 160
    assert len(list((cache / "features").iterdir())) == 2


def test_few_target_labels_and_a_trained_backbone(icon_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1))
    changed = [f"--data.train_transform.init_args.{side}=32" for side in ("resize", "crop")]
    settings = {"methods": ["target_only"], "folds": [1], "output": tmp_path / "run", "cache": tmp_path}
    settings |= {"target_per_class": 3, "freeze_backbone": False, "overrides": (*SMALL, *changed)}
    compare(*icon_sets, **settings)
    (checkpoint,) = (tmp_path / "run").rglob("last.ckpt")
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    data = stored["datamodule_hyper_parameters"]
    assert (data["target_per_class"], data["features"]) == (3, None)
    assert stored["state_dict"]["network.backbone.model.bn1.num_batches_tracked"] == 2
