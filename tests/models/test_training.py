"""Training as a whole: it learns, and an interrupted run ends where an uninterrupted one does."""

import csv
import warnings
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

import fastmmd
from fastmmd.models.callbacks import RandomState
from fastmmd.models.data import DomainPair, OptDigits
from fastmmd.models.digits import SOURCES
from fastmmd.models.experiment import Run
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import DigitCNN, ResNet50, TransferNet
from fastmmd.models.schedules import inverse_decay, ramp

from .conftest import CLASSES, Trunk


class Interruption(Exception):
    pass


class Recorder(Callback):
    """Notes the batches and rates of a run by step, and interrupts it before step `stop`."""

    def __init__(self, stop=None):
        self.stop = stop
        self.seen = {}

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == self.stop:
            raise Interruption
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.seen[trainer.global_step] = [batch["source"][0], batch["target"][0], torch.tensor(rates)]


def train(folder, blobs, stop=None, dropout_seed=1, workers=0, accumulate=1, **settings):
    """20 batches in 4 epochs, with dropout and random augmentation; a checkpoint every 3 steps."""
    torch.manual_seed(0)
    settings = {"transfer": fastmmd.TransferLoss(), "ramp": True, **settings}
    task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, **settings)
    data = blobs(train_transform=v2.GaussianNoise(), workers=workers)
    recorder = Recorder(stop)
    checkpoint = ModelCheckpoint(folder, every_n_train_steps=3, save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomState(), recorder, checkpoint],
    )
    torch.manual_seed(dropout_seed)
    with suppress(Interruption):
        trainer.fit(task, data, ckpt_path="last")
    return task, trainer, recorder.seen


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (10, 0), (13, 0), (13, 2)])  # 10: where an epoch begins
def test_resumed_run_equals_uninterrupted_run(tmp_path, blobs, stop, workers):
    whole, whole_trainer, whole_seen = train(tmp_path / "whole", blobs)
    train(tmp_path / "parts", blobs, stop=stop)
    resumed, resumed_trainer, seen = train(tmp_path / "parts", blobs, dropout_seed=2, workers=workers)
    assert list(whole_seen) == list(range(20))
    assert list(seen) == list(range(stop // 3 * 3, 20))
    for step, values in seen.items():
        assert all(torch.equal(*pair) for pair in zip(values, whole_seen[step], strict=True))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    momenta = (trainer.optimizers[0].state_dict()["state"] for trainer in (resumed_trainer, whole_trainer))
    torch.testing.assert_close(*momenta, rtol=0, atol=0)


def test_resumed_run_of_dsan_equals_uninterrupted_run(tmp_path, blobs):
    settings = {"transfer": fastmmd.LMMDLoss(), "layers": ("features",)}
    whole, *_ = train(tmp_path / "whole", blobs, **settings)
    train(tmp_path / "parts", blobs, stop=13, **settings)
    resumed, _, seen = train(tmp_path / "parts", blobs, dropout_seed=2, **settings)
    assert list(seen) == list(range(12, 20))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_resumed_run_with_accumulated_gradients(tmp_path, blobs):
    """Two of an epoch's five batches make a step, and the last one by itself."""
    whole, whole_trainer, seen = train(tmp_path / "whole", blobs, accumulate=2)
    assert whole_trainer.global_step == 12
    assert list(seen) == list(range(12))
    for step, (*_, rates) in seen.items():
        torch.testing.assert_close(rates, inverse_decay(step) * torch.tensor([3e-4, 3e-3]))
    assert whole.ramp_steps == 12
    train(tmp_path / "parts", blobs, stop=8, accumulate=2)
    resumed, _, seen = train(tmp_path / "parts", blobs, dropout_seed=2, accumulate=2)
    assert list(seen) == list(range(6, 12))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def trainer(**settings):
    return Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **settings},
    )


def test_overfits_sixteen_images():
    torch.manual_seed(0)
    digits = OptDigits()
    few = Subset(digits, range(16))
    few.classes, few.targets = digits.classes, digits.targets[:16]
    data = DomainPair(few, few, 16, 16, 120, source_validation=0, target_validation=0, target_test=0)
    network = TransferNet(DigitCNN(), 10, width=64, dropout=0.0, batch_norm=True)
    settings = {"target_labels": "used", "learning_rate": 0.02, "backbone_rate": 1.0}
    task = TransferTask(network, digits.classes, fastmmd.TransferLoss(), **settings)
    trainer(max_epochs=1, limit_val_batches=0).fit(task, data)
    task.eval()
    images = torch.stack([image for image, _ in few])
    assert task(images)[1].argmax(dim=1).tolist() == few.targets


def test_resnet50_takes_one_step():
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(16, 3, 64, 64), torch.arange(16) % 2)
    images.classes, images.targets = ["x", "y"], [k % 2 for k in range(16)]
    data = DomainPair(images, images, 4, 3, steps_per_epoch=1, source_validation=0.25, target_validation=0.25)
    task = TransferTask(TransferNet(ResNet50(), 2), images.classes, fastmmd.TransferLoss(), target_labels="used")
    before = {name: value.clone() for name, value in task.network.named_parameters()}
    trainer(max_epochs=1, limit_val_batches=0).fit(task, data)
    moved = {name for name, value in task.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_ramp_spans_the_training(blobs, monkeypatch):
    weights = []
    objective = TransferTask.objective

    def weighted(task, batch, weight, trace):
        weights.append(weight)
        return objective(task, batch)

    monkeypatch.setattr(TransferTask, "objective", weighted)
    for ramped in (True, False):
        weights.clear()
        task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, fastmmd.TransferLoss(), ramp=ramped)
        trainer(max_epochs=2, log_every_n_steps=0).fit(task, blobs())  # 0: never logs
        assert weights == ([ramp(step, 10) for step in range(10)] if ramped else [1] * 10)
    task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, fastmmd.TransferLoss(), ramp=True)
    with pytest.raises(ValueError, match="the training has no end"):
        trainer(max_epochs=-1).fit(task, blobs())


@pytest.mark.parametrize(
    ("every", "accumulate", "logged"),
    [(None, 1, [1, 1, 1]), (50, 2, [1, 1, 1]), (4, 1, [1, 1, 1]), (2, 1, [2, 3, 2]), (0, 1, [0, 0, 0])],
)
def test_every_epoch_logs_its_loss(tmp_path, blobs, every, accumulate, logged):
    """Five batches per epoch, which are fewer than Lightning's interval of 50 steps."""
    task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, fastmmd.TransferLoss())
    settings = {"max_epochs": 3, "log_every_n_steps": every, "accumulate_grad_batches": accumulate}
    training = trainer(**settings, logger=CSVLogger(tmp_path, name="", version=""))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.fit(task, blobs())
    assert not [warning for warning in caught if "logging interval" in str(warning.message)]
    with open(tmp_path / "metrics.csv", newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert [epochs.count(epoch) for epoch in range(3)] == logged


@pytest.mark.parametrize(("every", "step"), [(2, 7), (0, 9)])  # without logs at the epoch's last step
def test_loss_that_is_not_finite_is_refused(blobs, monkeypatch, every, step):
    task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, fastmmd.TransferLoss())
    objective = task.objective

    def poisoned(batch, weight, trace):
        factor = float("nan") if task.global_step >= 6 else 1.0
        loss, terms = objective(batch)
        return loss * factor, terms | {"jmmd": terms["jmmd"] * factor}

    monkeypatch.setattr(task, "objective", poisoned)
    with pytest.raises(FloatingPointError, match=rf"not finite at step {step}: loss nan, .*jmmd nan"):
        trainer(max_epochs=3, log_every_n_steps=every).fit(task, blobs())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_random_state_of_a_gpu_only_where_one_is_used(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: "state")
    callback = RandomState()
    callback.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device))), None, "fit")
    assert set(callback.state_dict()) == {"cpu", device}


def test_jan_beats_source_only_and_batch_statistics_on_fonts(tmp_path):
    """Fonts to optdigits, target labels ignored: 43, 53 and 82 %. With a dead MMD JAN is the control."""
    accuracy = {}
    for method in ("source_only", "statistics", "jan"):
        source = f"--data.source={SOURCES['fonts']}"
        result = Run("fonts", method, 0, ("--config=digits.yaml", f"--config={method}.yaml", source)).execute(tmp_path)
        assert (result["target_labels"], result["checkpoint"]) == ("ignored", "last, not selected")
        accuracy[method] = result["accuracy"]
    assert accuracy["jan"] >= accuracy["source_only"] + 10
    assert accuracy["jan"] >= accuracy["statistics"] + 10


def test_training_shorter_than_an_epoch_logs_its_loss(tmp_path, blobs):
    task = TransferTask(TransferNet(Trunk(), 3, width=6), CLASSES, fastmmd.TransferLoss())
    trainer(max_epochs=-1, max_steps=3, logger=CSVLogger(tmp_path, name="", version="")).fit(task, blobs())
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row.get("train/loss")] == ["2"]
