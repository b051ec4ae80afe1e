"""The boundary to the compiled extension: limits are the same on both sides, and structures refuse what can't be."""

import importlib
import subprocess
import sys

import pytest

from fastmmd import Gaussian, extension
from fastmmd.gaussian import MAX_GAUSSIANS
from fastmmd.problem import MAX_LAYERS
from tests.helpers import call_of, layers

module = pytest.importorskip("fastmmd._C")


def test_limits_are_those_of_the_extension():
    assert (module.MAX_LAYERS, module.MAX_GAUSSIANS) == (MAX_LAYERS, MAX_GAUSSIANS)


LAYER = {"dim": 3, "multipliers": [1.0], "weights": [1.0], "bandwidth_scale": 1.0, "follows_mean": True}
BUFFERS = {"inputs": [8, 8], "strides": [3, 3], "gradients": [0, 0]}
ADDRESSES = {"given_bandwidth": 0, "w": 0, "wa": 0, "kw": 0, "loss": 8, "statistics": 8, "workspace": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": [1.0, 2.0]}, "weights: expected length 2 .*got 1"),
        ({"multipliers": [1.0] * 65, "weights": [1.0] * 65}, "multipliers.*1 to 64.*got 65"),
        ({"dim": 0}, "dim: expected at least 1, got 0"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        module.Layer(**LAYER | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [3]}, r"strides: expected length 2 \(two per layer\), got 1"),
        ({"gradients": []}, r"gradients: expected length 2 \(two per layer\), got 0"),
        ({"inputs": []}, "layers: expected 1 to 8, got 0"),
        ({"inputs": [8, None]}, "inputs: expected numbers, got None"),
    ],
)
def test_buffers_that_would_be_read_beyond_an_end_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        module.Buffers(**BUFFERS | ADDRESSES | change)


def test_buffers_of_another_number_of_layers_are_refused():
    x = layers(4, (3, 2), 1)
    call = call_of(x, x, (Gaussian(), Gaussian()))
    problem, launch = extension.make_problem(call.problem, call.dims), module.CpuLaunch(num_threads=1, variant=0)
    with pytest.raises(ValueError, match=r"buffers: expected length 2 .*got 1"):
        module.cpu_run(problem, module.Buffers(**BUFFERS, **ADDRESSES), False, launch)


def test_fields_are_given_by_name():
    with pytest.raises(TypeError):
        module.Samples(2, 2, 3, 8, 8, 3, 3)


def test_another_abi_is_not_used(monkeypatch):
    """The reason says what came, what is needed and what to do."""
    monkeypatch.setattr(module, "ABI", 1)
    try:
        importlib.reload(extension)
        assert extension.module is None
        assert extension.reason.startswith(f"fastmmd._C has ABI 1, this code needs {extension.ABI}: ")
        assert "install" in extension.reason
    finally:
        monkeypatch.undo()
        importlib.reload(extension)
    assert extension.module is module


def test_a_broken_extension_is_not_taken_for_a_hidden_copy(monkeypatch):
    """The folder itself, with an extension for another Python, goes before nothing."""
    monkeypatch.setattr(extension, "SOURCE_CHECKOUT", True)
    monkeypatch.setattr("sys.path", [str(extension.PACKAGE.parent)])
    assert extension._hidden_copy() is None


def test_an_installed_copy_that_the_checkout_hides_is_named(monkeypatch, tmp_path):
    (tmp_path / "fastmmd").mkdir()
    (tmp_path / "fastmmd" / "_C.so").touch()
    monkeypatch.setattr(extension, "SOURCE_CHECKOUT", True)
    monkeypatch.setattr("sys.path", [str(extension.PACKAGE.parent), str(tmp_path)])
    assert extension._hidden_copy() == tmp_path / "fastmmd"


def test_the_command_of_info_warns_of_nothing():
    command = [sys.executable, "-W", "error", "-m", "fastmmd.info"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=extension.PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "backend reference:   runs here" in done.stdout
