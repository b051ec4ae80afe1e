"""Callbacks: random states in checkpoints, and the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from sklearn.metrics import confusion_matrix
from torch import Tensor

from fastmmd.models.analysis import figures
from fastmmd.models.analysis.metrics import METRICS, write_report
from fastmmd.models.analysis.predictions import write_predictions
from fastmmd.models.data.folds import Split
from fastmmd.models.data.inspect import describe
from fastmmd.models.files import write_atomically
from fastmmd.models.networks.network import over_crops


class RandomState(Callback):
    """Keeps torch's random states in checkpoints, so that a resumed run draws the same dropout.

    These are the CPU's and that of the GPU that the run uses, if any, of each process. The batches need no such care:
    see `data.sampling`.
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
        if not torch.distributed.is_initialized():
            return state
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, state)  # only the first process writes the checkpoint
        return {str(rank): one for rank, one in enumerate(states)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self.restored.get(str(trainer.global_rank), self.restored)
        if "cpu" in state:
            torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
        self.restored = {}


class ResultFiles(Callback):
    """Writes what a run did and found into the trainer's root directory.

    * `split.json`, when training begins: the target's split, see `data.folds.Split`. A run that goes on or is evaluated
      takes its split from the checkpoint, and it is an error if the two differ.
    * `data.md`, when training begins: what was read and how it is divided, see `data.inspect.describe`; also printed.
    * `predictions.csv`, after a test or a prediction, a row an image: its name (see `data.sampling.item_names`), label,
      predicted class, probabilities.
    * `confusion.png` and `per_class.png`, after a test, with a line that says how many images were right, whether
      target labels were used in training, what chose the checkpoint, and the metrics of the next file.
    * `metrics.json`, after a test: see `analysis.metrics.report`. The loggers have them as `test/<name>`.
    * `features_before.npz` when training begins and `features.npz` after a test, if `features`: the features of the
      target's test images and of as many of the source: the network's layers side by side, means over an image's
      crops. Arrays: `source` [n, width] and `target` [m, width] in fp32, `source_labels` [n] and `target_labels` [m],
      `classes` [classes].

    Where there are several processes, the first writes for all.

    Args:
        features: whether to write features.

    Raises (when a test or prediction ends):
        FloatingPointError: the network's outputs are not finite.
    """

    def __init__(self, features: bool = False) -> None:
        self.features = features
        self.outputs: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._write_split(trainer)
            text = describe(trainer.datamodule)
            with write_atomically(folder / "data.md") as file:
                file.write(text)
            rank_zero_info(text)
            if self.features and trainer.ckpt_path is None:
                self._write_features(trainer, pl_module, folder / "features_before.npz")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = []
        if trainer.is_global_zero:
            self._write_split(trainer)

    def _write_split(self, trainer: Trainer) -> None:
        """Writes `split.json`; that of a run that goes on, or is evaluated, must be there already or not at all."""
        path, split = Path(trainer.default_root_dir) / "split.json", trainer.datamodule.split
        if trainer.ckpt_path is not None and path.is_file():
            if Split.read(path).content() != split.content():
                raise ValueError(
                    f"{path} is not the division of {trainer.ckpt_path}: the two are of different runs; give the "
                    "run's own --output, or another one"
                )
        else:
            split.write(path)

    on_predict_start = on_test_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = self._gathered(trainer)
        if not trainer.is_global_zero:
            return
        folder, labels, predictions = self._write_predictions(trainer, pl_module, *found)
        if self.features:
            self._write_features(trainer, pl_module, folder / "features.npz")
        classes = list(pl_module.hparams.classes)
        matrix = confusion_matrix(labels, predictions, labels=range(len(classes)))
        correct, total = matrix.trace(), matrix.sum()
        title = f"target test: {correct / total:.1%} of {total}"
        rank_zero_info(
            f"target test accuracy {correct / total:.1%} ({correct} of {total}); "
            f"target labels {pl_module.hparams.target_labels} in training; checkpoint: {chosen_by(trainer)}; "
            + self._write_metrics(trainer, folder, classes, *found)
        )
        figures.confusions({title: matrix}, classes, folder / "confusion.png")
        figures.per_class(matrix, classes, title, folder / "per_class.png")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = self._gathered(trainer)
        if not trainer.is_global_zero:
            return
        folder, *_ = self._write_predictions(trainer, pl_module, *found)
        rank_zero_info(f"predictions: {folder / 'predictions.csv'}; checkpoint: {chosen_by(trainer)}")

    def _gathered(self, trainer: Trainer) -> list[Tensor]:
        """Labels [n] and probabilities [n, classes] of all processes, in the order of the test items."""
        own = [torch.cat([output[key] for output in self.outputs]).cpu() for key in ("labels", "probabilities")]
        if trainer.world_size == 1:
            return own
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, own)
        whole = []
        for shares in zip(*parts, strict=True):
            values = shares[0].new_empty(sum(map(len, shares)), *shares[0].shape[1:])
            for rank, share in enumerate(shares):
                values[rank :: trainer.world_size] = share  # as `DomainPair` deals them out
            whole.append(values)
        return whole

    def _write_predictions(
        self, trainer: Trainer, pl_module: LightningModule, labels: Tensor, probabilities: Tensor
    ) -> tuple[Path, Tensor, Tensor]:
        if not probabilities.isfinite().all():
            raise FloatingPointError("the network's outputs are not finite: its weights are of no use")
        predictions = probabilities.argmax(dim=1)
        classes = pl_module.hparams.classes
        folder = Path(trainer.default_root_dir)
        data = trainer.datamodule
        # With `trainer.limit_test_batches` fewer are tested.
        items = data.test_items if trainer.testing else data.predicted_items
        names = [data.names["target"][item] for item in items[: len(labels)]]
        write_predictions(folder / "predictions.csv", names, labels.tolist(), probabilities.numpy(), classes)
        return folder, labels, predictions

    @staticmethod
    def _write_metrics(
        trainer: Trainer, folder: Path, classes: list[str], labels: Tensor, probabilities: Tensor
    ) -> str:
        """Writes and logs the metrics of a test beside its accuracy, and returns them as text."""
        metrics = write_report(folder / "metrics.json", labels.numpy(), probabilities.numpy(), classes)
        for logger in trainer.loggers:
            logger.log_metrics({f"test/{name}": value for name, value in metrics.items()}, trainer.global_step)
        return ", ".join(f"{METRICS[name]} {value:.1%}" for name, value in metrics.items())

    @torch.no_grad()
    def _write_features(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        training = pl_module.training
        pl_module.eval()
        arrays = {"classes": np.array(pl_module.hparams.classes)}
        for name, loader in trainer.datamodule.samples().items():
            features, labels = [], []
            for images, targets in loader:
                images = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(images))
                layers, _ = over_crops(pl_module, images)
                features.append(torch.cat(list(layers.values()), dim=1).float().cpu())
                labels.append(targets)
            arrays |= {name: torch.cat(features).numpy(), f"{name}_labels": torch.cat(labels).numpy()}
        pl_module.train(training)
        with write_atomically(path, "wb") as file:
            np.savez_compressed(file, **arrays)


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
