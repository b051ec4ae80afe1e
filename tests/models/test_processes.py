"""Several processes: batches of their own, equal weights, every test item predicted once."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import fastmmd
from fastmmd.models.callbacks import RandomState, ResultFiles
from fastmmd.models.data import DomainPair
from fastmmd.models.data.folds import Split
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import TransferNet

from .conftest import CLASSES, Blobs, Trunk


class Numbered(Blobs):
    """Blobs with the item's number in front."""

    def __getitem__(self, item):
        image, label = super().__getitem__(item)
        return torch.cat([torch.tensor([float(item)]), image]), label


class Unnumbered(Trunk):
    """The trunk, which does not look at the number."""

    def forward(self, images):
        return super().forward(images[:, 1:])


class Notes(Callback):
    """Writes what a process saw and ended with into a file of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = {"source": [], "target": []}

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        for name, items in self.seen.items():
            items.append(batch[name][0][:, 0].int().tolist())

    def on_train_end(self, trainer, task):
        weights = [value.tolist() for value in task.network.parameters()]
        accuracy = trainer.callback_metrics["val/target_accuracy"].item()
        notes = {"seen": self.seen, "weights": weights, "accuracy": accuracy}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(notes))


def run(folder, epochs=2):
    """Training, from the folder's last checkpoint if there is one, and test by two processes."""
    seed_everything(0, verbose=False)
    task = TransferTask(TransferNet(Unnumbered(), 3, width=6), CLASSES, fastmmd.TransferLoss(), target_labels="used")
    # 31 test items, and two at a time: shares of 16 and 15 items.
    data = DomainPair(
        Numbered(60), Numbered(61, shift=1.0), 9, 6, 3, target_validation=7 / 61, target_test=31 / 61, balanced=True
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=False,
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[Notes(folder), ResultFiles(features=True), RandomState(), ModelCheckpoint(folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, data, ckpt_path="last")
        (metrics,) = trainer.test(task, data, verbose=False)
    return data, metrics


def test_two_processes(tmp_path):
    data, metrics = run(tmp_path)
    notes = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for name in ("source", "target"):
        first, second = (note["seen"][name] for note in notes)
        assert len(first) == len(second) == 6
        assert first != second
        train = data.items[name][0]
        assert {item for batch in [*first, *second] for item in batch} <= set(train)
        if name == "source":  # one pass is 54 items and three steps
            one_pass = [item for batch in [*first[:3], *second[:3]] for item in batch]
            assert len(one_pass) == len(set(one_pass)) == len(train)
    assert notes[0]["weights"] == notes[1]["weights"]
    assert notes[0]["accuracy"] == notes[1]["accuracy"]

    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["item"]) for row in rows] == data.test_items
    labels = [data.domains["target"].targets[item] for item in data.test_items]
    assert [CLASSES.index(row["label"]) for row in rows] == labels
    correct = sum(row["label"] == row["prediction"] for row in rows)
    assert metrics["test/accuracy"] == pytest.approx(correct / 31)
    assert set(Split.read(tmp_path / "split.json").folds[0].test) == {row["item"] for row in rows}
    with np.load(tmp_path / "features.npz") as arrays:
        assert arrays["target"].shape == (31, 6)


def test_two_processes_resume(tmp_path):
    for name, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        (tmp_path / name).mkdir(exist_ok=True)
        run(tmp_path / name, epochs)
    weights = [
        [json.loads((tmp_path / name / f"rank{rank}.json").read_text())["weights"] for rank in (0, 1)]
        for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]
