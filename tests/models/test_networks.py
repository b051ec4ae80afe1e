"""Shapes, names and weights of the networks."""

import re
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet, resnet50

from fastmmd.models.networks import DigitCNN, ResNet50, TransferNet


def test_transfer_net_returns_features_and_logits():
    network = TransferNet(DigitCNN(), num_classes=10, width=64, batch_norm=True)
    network.bottleneck[0].bias.data -= 1
    features, logits = network(torch.rand(5, 1, 16, 16))
    assert (features.shape, logits.shape) == ((5, 64), (5, 10))
    assert features.min() >= 0
    assert torch.equal(logits, network.head(features))
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(5))  # logits, not log-probabilities
    assert logits.min() < 0  # nor probabilities


def test_resnet50_keeps_torchvisions_names_and_shapes():
    ours, theirs = ResNet50().state_dict(), resnet50(weights=None).state_dict()
    expected = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == expected
    assert len(expected) == 318
    assert ResNet50().out_features == 2048


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_resnet50_loads_a_local_file(tmp_path, suffix):
    state = resnet50(weights=None).state_dict()
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = ResNet50(str(path)).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.pth"))):
        ResNet50(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_unreadable_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not a network")
    with pytest.raises(ValueError, match="cannot read"):
        ResNet50(str(path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_file_without_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        ResNet50(str(tmp_path / "weights.pth"))


def test_another_networks_file_is_refused(tmp_path):
    torch.save(DigitCNN().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"does not fit ResNet50: .*Missing key"):
        ResNet50(str(tmp_path / "weights.pth"))


def test_failed_download_says_what_to_do(monkeypatch):
    def offline(self, **_):
        raise URLError("no route to host")

    monkeypatch.setattr(resnet.ResNet50_Weights, "get_state_dict", offline)
    with pytest.raises(RuntimeError, match=r"resnet50-.*pth.*no route to host.*local path"):
        ResNet50("imagenet")
