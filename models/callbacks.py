"""Callbacks: random states in checkpoints, and the files of a test."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from sklearn.metrics import confusion_matrix
from torch import Tensor

from fastmmd.models import figures
from fastmmd.models.data.sampling import item_name
from fastmmd.models.files import write_atomically


class RandomState(Callback):
    """Keeps torch's random states in checkpoints, so that a resumed run draws the same dropout.

    These are the CPU's and that of the GPU that the run uses, if any. The batches need no such care: see
    `data.sampling`.
    """

    def __init__(self) -> None:
        self.restored: dict[str, Any] = {}
        self.device = torch.device("cpu")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.device = trainer.strategy.root_device

    def state_dict(self) -> dict[str, Any]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "cpu" in self.restored:
            torch.set_rng_state(self.restored["cpu"])
        if "cuda" in self.restored and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.restored["cuda"], self.device)
        self.restored = {}


class ResultFiles(Callback):
    """Writes what a test or a prediction found into the trainer's root directory.

    `predictions.csv` has a row an image: its path (where the target data set has no `samples`, its place there), label,
    predicted class, probabilities. After a test there are also `confusion.png` and `per_class.png`, and a line that
    says how many images were right, whether target labels were used in training, and what chose the checkpoint.

    Raises (when a test or prediction ends):
        FloatingPointError: the network's outputs are not finite.
    """

    def __init__(self) -> None:
        self.outputs: list[dict[str, Tensor]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = []

    on_predict_start = on_test_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder, labels, predictions = self._write_predictions(trainer, pl_module)
        classes = list(pl_module.hparams.classes)
        matrix = confusion_matrix(labels, predictions, labels=range(len(classes)))
        correct, total = matrix.trace(), matrix.sum()
        title = f"target test: {correct / total:.1%} of {total}"
        rank_zero_info(
            f"target test accuracy {correct / total:.1%} ({correct} of {total}); "
            f"target labels {pl_module.hparams.target_labels} in training; checkpoint: {chosen_by(trainer)}"
        )
        figures.confusions({title: matrix}, classes, folder / "confusion.png")
        figures.per_class(matrix, classes, title, folder / "per_class.png")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder, *_ = self._write_predictions(trainer, pl_module)
        rank_zero_info(f"predictions: {folder / 'predictions.csv'}; checkpoint: {chosen_by(trainer)}")

    def _write_predictions(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Path, Tensor, Tensor]:
        labels = torch.cat([output["labels"] for output in self.outputs]).cpu()
        probabilities = torch.cat([output["probabilities"] for output in self.outputs]).cpu()
        if not probabilities.isfinite().all():
            raise FloatingPointError("the network's outputs are not finite: its weights are of no use")
        predictions = probabilities.argmax(dim=1)
        classes = pl_module.hparams.classes
        folder = Path(trainer.default_root_dir)
        with write_atomically(folder / "predictions.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["item", "label", "prediction", *(f"p_{name}" for name in classes)])
            target = trainer.datamodule.domains["target"]
            rows = zip(trainer.datamodule.test_items, labels, predictions, probabilities, strict=False)
            for item, label, prediction, row in rows:
                writer.writerow(
                    [item_name(target, item), classes[label], classes[prediction], *(f"{p:.6f}" for p in row.tolist())]
                )
        return folder, labels, predictions


def chosen_by(trainer: Trainer) -> str:
    """What chose the weights that the trainer has loaded, for printing beside a result."""
    path, checkpoints = trainer.ckpt_path, trainer.checkpoint_callback
    if path is None:
        return "none loaded"
    best = checkpoints.best_model_path if checkpoints is not None else ""
    if best and Path(path).resolve() == Path(best).resolve():
        return f"best by {checkpoints.monitor}"
    if Path(path).stem.startswith("last"):
        return "last, not selected"
    return str(path)
