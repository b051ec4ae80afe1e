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


PROBLEM = {"joint": 1.0, "marginal": [0.0], "pair_weights": [1.0, 1.0, -2.0, 0.0], "clamp": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_target": 0, "form_columns": 0}, "n_target: expected at least 1, got 0"),
        ({"n_target": -1, "form_columns": 2}, "n_target: expected at least 0, got -1"),
        ({"n_source": 0, "form_columns": 2}, "n_source: expected at least 1, got 0"),
        ({"form_columns": -1}, "form_columns: expected at least 0, got -1"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(change, message):
    rows = {"n_source": 4, "n_target": 3}
    with pytest.raises(ValueError, match=message):
        module.Problem(layers=[module.Layer(**LAYER)], **PROBLEM | rows | change)


def cuda_small(**addresses):
    """A call of CUDA's route small with a form, at addresses that nobody may read."""
    problem = module.Problem(n_source=4, n_target=0, layers=[module.Layer(**LAYER)], form_columns=2, **PROBLEM)
    launch = module.CudaSmallLaunch(part_features=64, chunk=32, overlap=False)
    device = module.CudaDevice(index=0, stream=0)
    module.cuda_small(problem, module.Buffers(**BUFFERS | ADDRESSES | addresses), ["f32"], False, launch, device)


@pytest.mark.skipif(not module.CUDA, reason="built without CUDA kernels")
def test_a_form_without_its_tensors_is_refused():
    with pytest.raises(ValueError, match="w: expected an address, as the problem has a form, got 0"):
        cuda_small(wa=8, kw=8)
    with pytest.raises(ValueError, match="wa, kw: expected an address of at least one of them, got 0"):
        cuda_small(w=8)


@pytest.mark.skipif(not module.CUDA, reason="built without CUDA kernels")
def test_packed_rows_of_a_form_are_refused():
    problem = module.Problem(n_source=4, n_target=3, layers=[module.Layer(**LAYER)], form_columns=2, **PROBLEM)
    rows = {"rows": [8], "transposed": [0], "width": [16], "pitch": [16], "norm": 8, "bandwidth": 8, "tolerance": 8}
    arguments = (module.Buffers(**BUFFERS | ADDRESSES), ["f32"], False, "tf32")
    with pytest.raises(ValueError, match="form_columns: expected 0, as only route 'small' takes a form, got 2"):
        module.cuda_pack(
            problem, *arguments, module.CudaPackedRows(ones=False, **rows), module.CudaDevice(index=0, stream=0)
        )


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
