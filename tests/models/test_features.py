"""Features of a frozen backbone: computed once, and the same to the network as the images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from fastmmd.models.data import CachedFeatures, DomainPair, FiveCropEval
from fastmmd.models.data.features import BATCH
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import MldrNet, TransferNet
from fastmmd.models.networks.network import Layers

from .conftest import CLASSES, Blobs, Trunk


class Counted(Trunk):
    """Counts the items that have passed through it, and is not the same in training as in evaluation."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.append(nn.Dropout(0.5))
        self.count = 0

    def forward(self, images):
        self.count += len(images)
        return super().forward(images)


def test_features_are_the_backbones_outputs(tmp_path):
    domain, backbone = Blobs(100), Counted()
    data = CachedFeatures(domain, backbone, None, tmp_path)
    assert (len(data), data.classes, data.targets, data.names[:2]) == (100, CLASSES, domain.targets, ["0", "1"])
    assert backbone.training
    assert backbone.count == 100
    expected = backbone.eval()(domain.images).detach()
    torch.testing.assert_close(data.features, expected)
    features, label = data[7]
    assert torch.equal(features, data.features[7])
    assert label == domain.targets[7]


def test_features_are_computed_once(tmp_path):
    first = CachedFeatures(Blobs(20), Counted(), None, tmp_path)
    backbone = Counted()
    again = CachedFeatures(Blobs(20), backbone, None, tmp_path)
    assert backbone.count == 0
    assert torch.equal(first.features, again.features)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["weights", "images", "items", "transform", "layers", "files"])
def test_other_features_have_another_file(tmp_path, change):
    CachedFeatures(Blobs(20), Counted(), None, tmp_path)
    backbone, transform = Counted(), None
    domain = Blobs(21 if change == "items" else 20, shift=float(change == "images"))
    if change == "weights":
        backbone[0].bias.data[3] += 1
    if change == "transform":
        transform = torch.neg
    if change == "layers":  # with the same weights
        backbone.append(nn.Tanh())
    if change == "files":
        domain.fingerprint = "written later"
    CachedFeatures(domain, backbone, transform, tmp_path)
    assert backbone.count == len(domain)
    assert len(list(tmp_path.iterdir())) == 2


class Pictures(Dataset):
    """Seventy pictures of 40 x 48 random pixels."""

    classes, targets = ("a", "b"), [0, 1] * 35

    def __len__(self):
        return 70

    def __getitem__(self, item):
        pixels = np.random.default_rng(item).integers(256, size=(40, 48, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self.targets[item]


class Colour(nn.Module):
    """Images [n, 3, h, w] to the squares of their first pixels [n, 3]; the sizes of the batches that it saw."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return images[:, :, 0, 0] ** 2


@pytest.mark.parametrize("workers", [0, 2])
def test_features_of_several_crops_are_their_mean(tmp_path, workers):
    domain, backbone, transform = Pictures(), Colour(), FiveCropEval(40, 32)
    data = CachedFeatures(domain, backbone, transform, tmp_path, workers=workers)
    crops = torch.stack([transform(domain[item][0]) for item in range(70)])
    assert crops.shape == (70, 5, 3, 32, 32)
    torch.testing.assert_close(data.features, (crops[:, :, :, 0, 0] ** 2).mean(dim=1))
    # A batch of one crop each, small enough that all crops of its images are no more than a batch of single ones.
    assert (sum(backbone.sizes), max(backbone.sizes)) == (5 * 70, BATCH // 5)


def average(picture):
    return torch.from_numpy(np.asarray(picture, dtype=np.float32)).mean(dim=(0, 1))


def test_features_that_the_transform_makes(tmp_path):
    data = CachedFeatures(Pictures(), nn.Identity(), average, tmp_path)
    assert data.features.shape == (70, 3)
    torch.testing.assert_close(data.features[69], average(Pictures()[69][0]))


def test_layers_side_by_side():
    torch.manual_seed(0)
    network = MldrNet(3, depth=3, channels=(4, 6, 5), branch_channels=2, branch_map=2, width=7).eval()
    images = torch.randn(2, 3, 64, 64)
    features = Layers(network)(images)
    layers, logits = network(images)
    assert features.shape == (2, 21)
    assert torch.equal(features[:, 7:14], layers["level2"])
    # A linear layer on them is the mean of the branches' last layers.
    last = [head[-1] for head in network.heads]
    weight = torch.cat([layer.weight for layer in last], dim=1) / 3
    torch.testing.assert_close(features @ weight.T + sum(layer.bias for layer in last) / 3, logits)


def test_interrupted_computation_leaves_no_file(tmp_path, monkeypatch):
    backbone = Counted()
    monkeypatch.setattr(backbone, "forward", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CachedFeatures(Blobs(20), backbone, None, tmp_path)
    assert not list(tmp_path.iterdir())


def trained(folder, features):
    """A short training on a frozen backbone: the task, and what passed through the backbone."""
    backbone = Counted()
    data = DomainPair(Blobs(60), Blobs(48, shift=1.0), 9, 6, steps_per_epoch=5, features=features)
    torch.manual_seed(1)
    task = TransferTask(TransferNet(backbone, 3, width=6, freeze_backbone=True), CLASSES)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(2)
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    return task, backbone, metrics["test/accuracy"]


def test_training_on_features_equals_training_on_images(tmp_path):
    task, backbone, accuracy = trained(tmp_path, None)
    cached, once, cached_accuracy = trained(tmp_path, str(tmp_path / "features"))
    again, never, _ = trained(tmp_path, str(tmp_path / "features"))
    assert (once.count, never.count) == (60 + 48, 0)
    assert backbone.count > 60 + 48
    assert accuracy == pytest.approx(cached_accuracy)
    for name, value in task.network.state_dict().items():
        torch.testing.assert_close(cached.network.state_dict()[name], value)
        assert torch.equal(cached.network.state_dict()[name], again.network.state_dict()[name])
    # The whole network is there for images.
    assert cached.network(torch.zeros(2, 4))[1].shape == (2, 3)


def test_features_of_a_trained_backbone_are_refused(tmp_path, network):
    data = DomainPair(Blobs(60), Blobs(48), features=str(tmp_path))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=network))
    with pytest.raises(ValueError, match="features: a backbone that is trained has no fixed outputs"):
        data.setup("fit")


def test_features_know_no_training_transform(tmp_path, blobs):
    with pytest.raises(ValueError, match=r"features: .* set data.train_transform to null"):
        blobs(features=str(tmp_path), train_transform=torch.neg)
