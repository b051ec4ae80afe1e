"""Five crops of an image: what they are, and predictions averaged over them, in evaluation and afterwards."""

import csv
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from fastmmd.models import cli, predict
from fastmmd.models.data import FiveCropEval, FiveCropTrain, layouts
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.data.readers import MIKELS, read_domain
from fastmmd.models.export import export
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import MldrNet, TransferNet
from fastmmd.models.networks.network import over_crops
from fastmmd.models.trained import load_trained

from .conftest import CLASSES, Trunk

PLAIN = Preprocessing((0.0,) * 3, (1.0,) * 3)
# The network and the images of `mldrnet.yaml`, so small that a run takes seconds.
SMALL = [
    *("--model.network.init_args.channels=[4,6,6,6]", "--model.network.init_args.width=12"),
    *("--model.network.init_args.branch_channels=4", "--model.network.init_args.branch_map=2"),
    *(f"--data.{kind}_transform.init_args.{side}" for kind in ("train", "eval") for side in ("resize=36", "crop=32")),
    *("--data.source_batch=8", "--data.target_batch=6", "--data.workers=0", "--data.steps_per_epoch=3"),
    *("--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--result_files.features=true"),
]


def picture(width=60, height=40):
    """Its red grows to the right, its green downwards."""
    x, y = np.meshgrid(np.arange(width) * 4, np.arange(height) * 4)
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def plain(transform):
    transform.match(PLAIN)
    return transform


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (40, 40)])
def test_crops_are_the_corners_and_the_centre(width, height):
    image = v2.functional.pil_to_tensor(picture(width, height)) / 255
    crops = plain(FiveCropEval(resize=40, crop=32))(picture(width, height))
    right, low = width - 32, height - 32
    middle = (low // 2, right // 2)
    expected = [image[:, y : y + 32, x : x + 32] for y, x in ((0, 0), (0, right), (low, 0), (low, right), middle)]
    assert type(crops) is torch.Tensor
    torch.testing.assert_close(crops, torch.stack(expected))
    centre = plain(FiveCropEval(resize=40, crop=32, centre_only=True))(picture(width, height))
    torch.testing.assert_close(centre, expected[4])


def test_training_takes_each_crop_and_its_mirror_image():
    crops = plain(FiveCropEval(resize=40, crop=32))(picture())
    possible = [*crops, *crops.flip(-1)]
    transform = plain(FiveCropTrain(resize=40, crop=32))
    torch.manual_seed(0)
    drawn = [transform(picture()) for _ in range(100)]
    which = [[torch.equal(image, crop) for crop in possible].index(True) for image in drawn]
    assert set(which) == set(range(10))
    pickle.dumps(transform)  # for loader processes


def test_sides_are_those_of_the_network_or_given():
    expected = MldrNet(8, 1, channels=(2,), width=2).preprocessing
    assert (expected.resize, expected.crop) == (400, 375)
    for kind, shape in ((FiveCropTrain, (3, 375, 375)), (FiveCropEval, (5, 3, 375, 375))):
        transform = kind()
        assert transform(picture()).shape == (*shape[:-2], 224, 224)
        transform.match(expected)
        assert transform(picture()).shape == shape
        assert transform.steps.transforms[1].size == [400]  # the shorter side
        given = kind(resize=36, crop=32)
        given.match(expected)
        assert given(picture()).shape == (*shape[:-2], 32, 32)


def small_network():
    torch.manual_seed(0)
    return MldrNet(3, channels=(4, 6, 6, 6), branch_channels=4, branch_map=2, width=12).eval()


def test_means_over_crops():
    network = small_network()
    images = torch.rand(6, 5, 3, 32, 32)
    layers, probabilities = over_crops(network, images)
    for k in range(6):
        own_layers, logits = network(images[k])  # the five crops as a batch
        torch.testing.assert_close(probabilities[k], logits.softmax(dim=1).mean(dim=0))
        for name, layer in layers.items():
            torch.testing.assert_close(layer[k], own_layers[name].mean(dim=0))
    layers, probabilities = over_crops(network, images[:, 0])
    own_layers, logits = network(images[:, 0])
    assert torch.equal(probabilities, logits.softmax(dim=1))
    assert all(torch.equal(layers[name], own_layers[name]) for name in own_layers)


def test_task_predicts_and_validates_means():
    """Three of five crops say one class and are unsure; two say another and are sure."""

    class Given(nn.Module):
        def forward(self, images):
            return {}, images[:, :, 0, 0]

    logits = torch.tensor([[1.0, 0, 0]] * 3 + [[0, 9.0, 0]] * 2)
    images = logits[None, :, :, None, None].repeat(2, 1, 1, 4, 4)
    task = TransferTask(Given(), CLASSES).eval()
    predicted = task.predict_step((images, torch.tensor([1, 0])))["probabilities"]
    torch.testing.assert_close(predicted, logits.softmax(dim=1).mean(dim=0).repeat(2, 1))
    task.log = lambda *args, **kwargs: None
    task.validation_step((images, torch.tensor([1, 0])), 0, dataloader_idx=1)
    assert task.val_accuracy["target"].compute() == 0.5


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """FI and ArtPhoto with eight noisy pictures of each emotion, and the paths of both."""
    folder, random = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)

    def pictures(votes):
        for label in MIKELS * 8:
            yield layouts.Picture(label, Image.fromarray(random.integers(256, size=(40, 48, 3), dtype=np.uint8)), votes)

    layouts.write_fi(folder / "fi", pictures((0, 5)))
    layouts.write_artphoto(folder / "artphoto", pictures(()))
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_mldrnet_on_one_set(sets, tmp_path):
    """Trained, tested, resumed; its probabilities are means over five crops in the run and in `predict`."""
    roots = [f"--data.{domain}.init_args.root={sets / 'fi'}" for domain in ("source", "target")]
    args = ["--config=mldrnet.yaml", *roots, *SMALL, f"--output={tmp_path}"]
    cli.main(["fit", *args])
    cli.main(["test", *args])
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    trained = load_trained(checkpoint)
    assert isinstance(trained.network, MldrNet)
    assert trained.shape == (3, 32, 32)

    tested = rows(tmp_path / "predictions.csv")
    assert len(tested) == 8
    split = json.loads((tmp_path / "split.json").read_text())["folds"][0]
    assert sorted(row["item"] for row in tested) == sorted(split["test"])
    domain, folder = read_domain("fi", str(sets / "fi")), sets / "fi" / "emotion_dataset"
    with torch.inference_mode():
        for row in tested:
            image = Image.open(folder / row["item"])
            crops = trained.transform(image)
            expected = torch.stack([trained.network(crop[None])[1].softmax(dim=1)[0] for crop in crops]).mean(dim=0)
            written = [float(row[f"p_{name}"]) for name in domain.classes]
            assert written == pytest.approx(expected.tolist(), abs=2e-6)

    predict.main([f"--checkpoint={checkpoint}", f"--images={folder}", f"--output={tmp_path / 'predicted'}"])
    predicted = {row["path"]: row for row in rows(tmp_path / "predicted" / "predictions.csv")}
    assert len(predicted) == 64
    for row in tested:
        again = predicted[row["item"]]
        assert again["class"] == row["prediction"]
        for name in domain.classes:
            assert float(again[f"p_{name}"]) == pytest.approx(float(row[f"p_{name}"]), abs=2e-6)

    with np.load(tmp_path / "features.npz") as arrays:
        assert arrays["target"].shape == (8, 4 * 12)  # four levels side by side
    cli.main(["fit", *args, "--ckpt_path=last", "--trainer.max_epochs=3"])
    stored = torch.load(checkpoint, weights_only=True)
    assert stored["global_step"] == 9
    (group,) = stored["optimizer_states"][0]["param_groups"]
    settings = {"name": "new layers", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.0005, "nesterov": False}
    assert {name: group[name] for name in settings} == settings

    sidecar = json.loads((export(checkpoint, tmp_path / "exported").parent / "model.json").read_text())
    assert (sidecar["input"]["shape"], sidecar["input"]["crops"]) == (["n", 3, 32, 32], 5)
    assert sidecar["outputs"] == ["level1", "level2", "level3", "level4", "logits"]
    assert sidecar["input"]["std"] == pytest.approx([0.229, 0.224, 0.225], abs=1e-5)
    program = torch.export.load(export(checkpoint, tmp_path / "exported", "torch_export")).module()
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(program(images), load_trained(checkpoint).network(images))


def test_mldrnet_between_two_sets(sets, tmp_path):
    """One JMMD over four levels and the softmax; or another network in the same configuration."""
    roots = [
        f"--data.{domain}.init_args.root={sets / name}" for domain, name in (("source", "fi"), ("target", "artphoto"))
    ]
    configs = ["--config=mldrnet.yaml", "--config=fi_artphoto.yaml"]
    cli.main(["fit", *configs, "--config=mldrnet_jan.yaml", *roots, *SMALL, f"--output={tmp_path}"])
    with open(tmp_path / "logs" / "version_0" / "metrics.csv", newline="") as file:
        logs = list(csv.DictReader(file))
    steps = [row for row in logs if row["train/jmmd"]]
    assert len(steps) == 6
    for step, row in enumerate(steps):
        assert float(row["train/jmmd"]) > 0
        assert (float(row["train/transfer_gradient"]) > 0) == (step > 0)  # the term's weight grows from 0
        for name in ("level1", "level2", "level3", "level4", "softmax"):
            assert float(row[f"train/mmd_{name}"]) > 0
    another = [
        *(arg for arg in SMALL if "network" not in arg),
        "--model.network=fastmmd.models.networks.Classifier",
        "--model.network.init_args.backbone=fastmmd.models.networks.TCNN",
        "--model.network.init_args.backbone.init_args={channels: [4, 6], widths: [8, 8]}",
    ]
    arms = ["--config=source_only.yaml", "--data.exclude_held_out=false"]
    cli.main(["fit", *configs, *arms, *roots, *another, f"--output={tmp_path / 'tcnn'}"])
    stored = torch.load(tmp_path / "tcnn" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = stored["optimizer_states"][0]["param_groups"]
    assert [(group["name"], group["lr"]) for group in groups] == [("backbone", 0.001), ("new layers", 0.001)]


def test_transforms_of_a_network_without_photographs_stay(blobs):
    evaluation = FiveCropEval()
    data = blobs(eval_transform=evaluation)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=TransferNet(Trunk(), 3)))
    before = evaluation.steps
    data.setup("fit")
    assert evaluation.steps is before
