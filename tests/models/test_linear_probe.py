"""A frozen backbone and one linear layer: what stays, what is trained, and the packaged configuration."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastmmd import Gaussian, TransferLoss
from fastmmd.models.cli import TransferCLI, main
from fastmmd.models.data.images import match
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import Classifier, Torchvision
from fastmmd.models.predict import predict

from .conftest import CLASSES, Trunk

JOINT, MARGINAL = (1.0, (0.0, 0.0)), (0.0, (1.0, 0.0))


class Noisy(Trunk):
    """A backbone with batch statistics and dropout: not the same in training as in evaluation."""

    def __init__(self):
        super().__init__()
        self.extend([nn.BatchNorm1d(8), nn.Dropout(0.5)])


def batch(features=False):
    generator = torch.Generator().manual_seed(0)
    width = 8 if features else 4
    return {name: (torch.randn(9, width, generator=generator), torch.arange(9) % 3) for name in ("source", "target")}


def term(joint, marginal):
    return TransferLoss(kernels=[Gaussian("mean"), Gaussian(1.68)], joint=joint, marginal=marginal)


@pytest.mark.parametrize("backbone", [Noisy, lambda: Torchvision("resnet18")])
def test_frozen_backbone_is_bit_for_bit_what_it_was(backbone):
    network = Classifier(backbone(), 3, freeze_backbone=True)
    task = TransferTask(network, CLASSES, target_labels="used", learning_rate=0.1)
    (group,) = task.configure_optimizers()["optimizer"].param_groups
    assert {id(value) for value in group["params"]} == {id(value) for value in network.head.parameters()}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(6, 4) if isinstance(network.backbone, Noisy) else torch.randn(6, 3, 32, 32)
    task.train()
    optimizer = task.configure_optimizers()["optimizer"]
    for _ in range(3):
        loss, _ = task.objective({name: (images, torch.arange(6) % 3) for name in ("source", "target")})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert not network.backbone.training
    assert network.head.training


def test_features_stand_for_images():
    network = Classifier(Trunk(), 3, freeze_backbone=True)
    images = torch.randn(5, 4)
    torch.testing.assert_close(network(network.backbone(images))[1], network(images)[1])
    with pytest.raises(RuntimeError):  # a backbone that is trained has no fixed outputs
        Classifier(Trunk(), 3)(torch.randn(5, 8))


@pytest.mark.parametrize("features", [False, True])
def test_joint_term_works_through_the_softmax(features):
    torch.manual_seed(0)
    network = Classifier(Trunk(), 3, freeze_backbone=True)
    task = TransferTask(network, CLASSES, transfer=term(*JOINT), source_labels="used")
    with_term, terms = task.objective(batch(features), trace=True)
    assert terms["transfer_gradient"] > 0
    gradient = torch.autograd.grad(with_term, network.head.weight)[0]
    without = torch.autograd.grad(task.objective(batch(features), weight=0.0)[0], network.head.weight)[0]
    assert (gradient - without).norm() > 1e-4 * without.norm()


def test_term_over_fixed_features_alone_is_refused():
    task = TransferTask(Classifier(Trunk(), 3, freeze_backbone=True), CLASSES, transfer=term(*MARGINAL))
    message = r"transfer: nothing that is trained has a part .*over features.* frozen backbone"
    with pytest.raises(ValueError, match=message):
        task.objective(batch())
    with torch.no_grad():  # only looked at, it may be measured
        assert task.objective(batch())[1]["transfer_loss"] > 0


@pytest.fixture
def arguments(tmp_path):
    """Arguments of the command line: striped pictures in two folders, a random small vision transformer."""
    pytest.importorskip("timm")
    rows = np.arange(70)[:, None, None] * np.ones((1, 90, 3))
    for shift, domain in enumerate(("source", "target")):
        for period, name in ((6, "awe"), (20, "fear")):
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for k in range(20):
                wave = 128 + 100 * np.sin(2 * np.pi * (rows + 3 * k) / period) + 10 * shift
                Image.fromarray(wave.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    backbone = "--model.network.init_args.backbone"
    return [
        *("--config=folders.yaml", "--config=linear_probe.yaml"),
        *(f"--data.{domain}.init_args.root={tmp_path / domain}" for domain in ("source", "target")),
        *(f"{backbone}=fastmmd.models.networks.Timm", f"{backbone}.init_args.name=test_vit"),
        *(f"{backbone}.init_args.weights=none", f"{backbone}.init_args.size=64"),
        *(f"--data.features={tmp_path / 'features'}", "--data.steps_per_epoch=20", "--trainer.max_epochs=5"),
        *("--data.source_batch=16", "--data.target_batch=16", "--data.target_test=0.3", "--data.target_validation=0.2"),
        *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    ]


def test_packaged_configuration(arguments, tmp_path):
    output = f"--output={tmp_path / 'run'}"
    main(["fit", *arguments, output, "--model.learning_rate=0.05"])
    main(["test", *arguments, output, "--model.learning_rate=0.05"])
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert sum(row["label"] == row["prediction"] for row in rows) >= 11
    assert len(list((tmp_path / "features").iterdir())) == 2  # of source and target, once

    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    predict(checkpoint, tmp_path / "target" / "fear", tmp_path / "predicted")  # from the pictures themselves
    with open(tmp_path / "predicted" / "predictions.csv", newline="") as file:
        assert sum(row["class"] == "fear" for row in csv.DictReader(file)) >= 19


@pytest.mark.parametrize("method", ["jan", "both", "dan"])
def test_packaged_configuration_with_a_transfer_term(arguments, tmp_path, method):
    run = ["fit", *arguments[:2], f"--config={method}.yaml", *arguments[2:], f"--output={tmp_path / 'run'}"]
    run += ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    if method == "dan":
        with pytest.raises(ValueError, match="transfer: nothing that is trained"):
            main(run)
    else:
        main(run)


def test_packaged_configuration_behind_emotion():
    """The transfer network's settings that a linear layer does not have are left behind."""
    domains = [f"--data.{domain}=fastmmd.models.data.OptDigits" for domain in ("source", "target")]
    backbone = "--model.network.init_args.backbone.init_args.weights=none"
    args = ["--config=emotion.yaml", "--config=linear_probe.yaml", *domains, backbone]
    network = TransferCLI(args, run=False).model.network
    assert (type(network), type(network.backbone).__name__, network.freeze_backbone) == (Classifier, "ResNet50", True)


def test_packaged_configuration_has_the_networks_sizes():
    """Not those of a configuration before it: small.yaml's pictures have 64 pixels."""
    domains = [f"--data.{domain}=fastmmd.models.data.OptDigits" for domain in ("source", "target")]
    backbone = "--model.network.init_args.backbone=fastmmd.models.networks.Torchvision"
    args = ["--config=emotion.yaml", "--config=small.yaml", "--config=linear_probe.yaml", *domains, backbone]
    args += [f"{backbone.split('=')[0]}.init_args.{setting}" for setting in ("name=resnet18", "weights=none")]
    cli = TransferCLI(args, run=False)
    transform = cli.datamodule.transforms["eval"]
    match(transform, cli.model.network.preprocessing)
    assert transform(Image.new("RGB", (300, 400))).shape == (3, 224, 224)
