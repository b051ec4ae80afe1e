"""Local files of weights: found in their file whatever stands around them, and never loaded in part."""

import argparse
import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from fastmmd.models.networks import Torchvision
from fastmmd.models.networks.weights import load_weights


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return resnet18(weights=None).state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def loaded(tmp_path, content, suffix="pth"):
    path = tmp_path / f"weights.{suffix}"
    save_file(content, path) if suffix == "safetensors" else torch.save(content, path)
    return Torchvision("resnet18", str(path)).model.state_dict()


def equal(weights, expected):
    return len(weights) == 120 and all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "model.", "network.backbone.model.", "module.encoder_q.", "fc."]
)
def test_prefixes_are_taken_off(tmp_path, state, suffix, prefix):
    assert equal(loaded(tmp_path, prefixed(prefix, state), suffix), state)


@pytest.mark.parametrize(
    "keys", [("state_dict",), ("model",), ("model_state_dict",), ("net",), ("teacher",), ("a", "b", "c"), ("models", 0)]
)
def test_nested_state_dicts_are_entered(tmp_path, state, keys):
    momenta = {k: {"exp_avg": value} for k, value in enumerate(state.values())}
    content = prefixed("module.", state)
    for key in reversed(keys):
        content = [content] if key == 0 else {key: content}
    content |= {"optimizer": {"state": momenta, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    assert equal(loaded(tmp_path, content), state)


def test_what_stands_beside_a_prefix_is_passed_over(tmp_path, state):
    content = prefixed("network.backbone.", state) | {"network.head.weight": torch.ones(3, 4), "queue": torch.ones(2)}
    assert equal(loaded(tmp_path, {"state_dict": content}), state)


def test_counts_of_batches_may_be_absent(tmp_path, state):
    weights = loaded(tmp_path, {name: value for name, value in state.items() if "num_batches" not in name})
    assert all(torch.equal(value, state[name]) for name, value in weights.items() if "num_batches" not in name)


def test_several_state_dicts_that_fit_are_named(tmp_path, state):
    with pytest.raises(ValueError, match="several state dicts that fit ResNet: entry 'teacher', entry 'student' with"):
        loaded(tmp_path, {"teacher": state, "student": prefixed("module.", state)})
    content = prefixed("module.encoder_q.", state) | prefixed("module.encoder_k.", state)
    with pytest.raises(ValueError, match=r"prefix 'module.encoder_q.', .*'module.encoder_k.'; save the one to take"):
        loaded(tmp_path, content)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_differences_are_named(tmp_path, state, prefix):
    where = "the whole file" + f" with the prefix '{prefix}'" * bool(prefix)
    absent = [name for name in state if name.startswith("layer4.1.") and "num_batches" not in name]
    content = {name: value for name, value in state.items() if name not in absent}
    message = (
        f"100 tensors {100 - len(absent)} are in {where} by name and shape; absent: {', '.join(absent[:5])}, ... (10)"
    )
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        loaded(tmp_path, prefixed(prefix, content))
    content = state | {"conv1.weight": torch.zeros(64, 1, 7, 7), "layer5.weight": torch.zeros(1)}
    message = (
        f"of its 100 tensors 99 are in {where} by name and shape; "
        "shapes: conv1.weight is [64, 1, 7, 7], expected [64, 3, 7, 7]; not the network's: layer5.weight"
    )
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        loaded(tmp_path, prefixed(prefix, content))


def test_more_than_the_network_has_is_another_network(tmp_path, state):
    """Half of a deeper network would fit and mean nothing."""
    content = {"model": prefixed("module.", state | {"layer4.2.conv1.weight": state["layer4.1.conv1.weight"]})}
    with pytest.raises(ValueError, match=r"100 are in entry 'model' .*; not the network's: layer4.2.conv1.weight$"):
        loaded(tmp_path, content)


def test_another_networks_file_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"does not fit ResNet: of its 100 tensors 0 are in .* not the network's: a.weight"
    ):
        loaded(tmp_path, prefixed("a.", nn.Linear(3, 4).state_dict()))


@given(
    prefix=st.lists(st.sampled_from(["module", "0", "weight", "conv", "a"]), max_size=3),
    keys=st.lists(st.sampled_from(["state_dict", "0", "weight"]), max_size=2),
    beside=st.booleans(),
)
def test_any_prefix_and_nesting(tmp_path_factory, prefix, keys, beside):
    module, other = (nn.Sequential(nn.Linear(2, 3), nn.Conv2d(1, 2, 3)) for _ in range(2))
    content = prefixed("".join(f"{part}." for part in prefix), other.state_dict())
    if beside:
        content["other"] = torch.ones(1) if prefix else 3
    for key in keys:
        content = {key: content, "epoch": 1}
    path = tmp_path_factory.getbasetemp() / "weights.pth"
    torch.save(content, path)
    load_weights(module, str(path), without="fc.")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items())


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.pth"))):
        Torchvision("resnet18", str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a network", random.Random(0).randbytes(3000)])
def test_unreadable_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read '{path}' as a state dict: {len(content):,} bytes, "):
        Torchvision("resnet18", str(path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}])
def test_file_without_state_dict_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="holds no state dict"):
        loaded(tmp_path, content)


def test_file_that_needs_pickle_says_what_to_do(tmp_path, state):
    with pytest.raises(ValueError, match=r"Python objects \(argparse.Namespace\).* weights_only=False\) torch.save"):
        loaded(tmp_path, {"state_dict": state, "args": argparse.Namespace(rate=1)})
    with pytest.raises(ValueError, match=r"Python objects \(torch.nn.modules.linear.Linear\)"):
        loaded(tmp_path, nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_says_what_to_do(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"a TorchScript program.* torch.jit.load\(.*weights.pth'\) torch.save"):
        Torchvision("resnet18", str(tmp_path / "weights.pth"))


def test_kind_of_a_file_is_told_by_its_content(tmp_path, state):
    for name in ("weights.bin", "weights.SAFETENSORS"):
        save_file(state, tmp_path / name)
        assert equal(Torchvision("resnet18", str(tmp_path / name)).model.state_dict(), state)
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"weights.{suffix}"
        for content, told in (
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "Git LFS.*git lfs pull"),
            (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        ):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"cannot read '{path}' as a state dict: it is .*{told}"):
                Torchvision("resnet18", str(path))


def test_integers_are_no_weights(tmp_path, state):
    quantised = {name: (127 * value).to(torch.int8) for name, value in state.items()}
    with pytest.raises(ValueError, match=r"not floating-point: conv1\.weight is torch.int8, "):
        loaded(tmp_path, quantised)


def test_file_that_was_cut_is_named(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=f"cannot read '{path}' as a state dict: 20,000 bytes, "):
        Torchvision("resnet18", str(path))
