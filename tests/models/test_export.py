"""Exported networks: each format, read back, computes what the trained network does."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from fastmmd.models import export as exporting
from fastmmd.models.export import export
from fastmmd.models.networks import Torchvision, TransferNet
from fastmmd.models.trained import load_trained


@pytest.fixture(scope="module")
def photo_checkpoint(tmp_path_factory):
    """What `fit` saves of a network for photographs that began with pretrained weights, which are not at hand now."""
    return save_photo_checkpoint(tmp_path_factory.mktemp("run") / "last.ckpt")


def save_photo_checkpoint(path, **changes):
    torch.manual_seed(0)
    network = TransferNet(Torchvision("resnet18"), num_classes=2, width=5).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network(torch.randn(4, 3, 48, 48))  # moves batch statistics
        network.head.weight.normal_()
    backbone = {"name": "resnet18", "weights": "/nowhere/resnet18.safetensors"}
    stored = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": {
            "classes": ["awe", "fear"],
            "network": {
                "class_path": "fastmmd.models.networks.TransferNet",
                "init_args": {
                    "backbone": {"class_path": "fastmmd.models.networks.Torchvision", "init_args": backbone},
                    "num_classes": 2,
                    "width": 5,
                },
            },
        },
        "datamodule_hyper_parameters": {
            "target": {"class_path": "torchvision.datasets.ImageFolder", "init_args": {"root": "/nowhere"}},
            "eval_transform": {
                "class_path": "fastmmd.models.data.EvalTransform",
                "init_args": {"resize": 56, "crop": 48},
            },
        },
    }
    torch.save({**stored, **changes}, path)
    return path


def assert_same(outputs, network, images):
    with torch.inference_mode():
        expected = network(images)
    for output, value in zip(tree_leaves(outputs), tree_leaves(expected), strict=True):
        torch.testing.assert_close(torch.as_tensor(output), value, atol=1e-5, rtol=1e-5)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, 48, 48, generator=generator) for count in (1, 2, 5)]


def test_safetensors(photo_checkpoint, tmp_path, batches):
    path = export(photo_checkpoint, tmp_path)
    network = TransferNet(Torchvision("resnet18"), num_classes=2, width=5).eval()
    network.load_state_dict(load_file(path))
    for images in batches:
        assert_same(network(images), load_trained(photo_checkpoint).network, images)

    sidecar = json.loads((tmp_path / "model.json").read_text())
    assert (sidecar["file"], sidecar["classes"]) == ("model.safetensors", ["awe", "fear"])
    assert sidecar["input"]["shape"] == ["n", 3, 48, 48]
    assert sidecar["input"]["mean"] == pytest.approx([0.485, 0.456, 0.406], abs=1e-5)
    assert sidecar["input"]["std"] == pytest.approx([0.229, 0.224, 0.225], abs=1e-5)
    assert "Resize(size=[56, 56]" in sidecar["input"]["steps"]
    assert sidecar["network"]["init_args"]["backbone"]["init_args"]["name"] == "resnet18"
    assert sidecar["versions"]["torch"] == torch.__version__


def test_torch_export(photo_checkpoint, tmp_path, batches):
    program = torch.export.load(export(photo_checkpoint, tmp_path, "torch_export")).module()
    for images in batches:
        assert_same(program(images), load_trained(photo_checkpoint).network, images)


def test_onnx(photo_checkpoint, tmp_path, batches):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnxruntime.InferenceSession(export(photo_checkpoint, tmp_path, "onnx"))
    assert [value.name for value in (*model.get_inputs(), *model.get_outputs())] == ["images", "features", "logits"]
    for images in batches:
        assert_same(model.run(None, {"images": images.numpy()}), load_trained(photo_checkpoint).network, images)


def test_onnx_takes_its_packages(photo_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx onnxscript"):
        export(photo_checkpoint, tmp_path / "output", "onnx")
    assert not (tmp_path / "output").exists()


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint: no file"):
        load_trained(tmp_path / "absent.ckpt")
    for name, content in (("text", b"no pickle"), ("empty", b""), ("list", pickle.dumps([1], protocol=2))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="expected one of `python"):
            load_trained(tmp_path / name)
    weights = save_photo_checkpoint(tmp_path / "weights.ckpt", hyper_parameters={})
    with pytest.raises(ValueError, match="KeyError: 'network'"):
        load_trained(weights)
    with pytest.raises(ValueError, match="does not fit its own settings"):
        load_trained(save_photo_checkpoint(tmp_path / "other.ckpt", state_dict={}))
