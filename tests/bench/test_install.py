"""Building for the GPU at hand, with pip and without it."""

import os
import subprocess
import sys

import pytest
import torch

from bench import install


@pytest.fixture
def commands(monkeypatch):
    """What would be run; pip and CMake are said to end with `statuses`."""
    calls = []
    statuses = {"pip": 0, "cmake": 0}

    def instead(command, env=None, **options):
        calls.append((list(command), env))
        name = "pip" if "pip" in command else "cmake" if command[0] == "cmake" else "info"
        said = f"noise\n  fastmmd: built _C.so: CUDA kernels for {env and env.get('FASTMMD_CUDA_ARCHS')}\nmore noise"
        return subprocess.CompletedProcess(command, statuses.get(name, 0), said)

    def streamed(command, settings):
        done = instead(command, settings)
        print(*(line.strip() for line in done.stdout.splitlines() if "fastmmd: " in line), sep="\n")
        return done.returncode, done.stdout

    monkeypatch.setattr(install.subprocess, "run", instead)
    monkeypatch.setattr(install, "_stream", streamed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(install, "outdated_setuptools", lambda: None)
    monkeypatch.delenv("FASTMMD_CUDA_ARCHS", raising=False)
    return calls, statuses


def programs(calls):
    return ["pip" if "pip" in command else command[0] if command[0] == "cmake" else command[2] for command, _ in calls]


@pytest.mark.parametrize("given", ["", "80;90"])
def test_pip_compiles_for_the_gpu_at_hand_without_network(commands, monkeypatch, capsys, given):
    calls, _ = commands
    if given:
        monkeypatch.setenv("FASTMMD_CUDA_ARCHS", given)
    assert install.main() == 0
    assert programs(calls) == ["pip", "bench.environment"]
    assert {"--no-build-isolation", "--no-deps", "--no-index", str(install.ROOT)} <= set(calls[0][0])
    assert capsys.readouterr().out == f"fastmmd: built _C.so: CUDA kernels for {given or '90'}\n"


def test_where_pip_fails_cmake_builds_into_the_tree(commands, capsys):
    calls, statuses = commands
    statuses["pip"] = 1
    assert install.main() == 0
    assert programs(calls) == ["pip", "cmake", "cmake", "bench.environment"]
    assert f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={install.ROOT / 'fastmmd'}" in calls[1][0]
    assert "-DFASTMMD_CUDA_ARCHS=90" in calls[1][0]
    said = capsys.readouterr().out
    assert "more noise" in said  # all that pip said
    assert "CMake builds into the source tree, since pip ended with status 1" in said


def test_with_an_old_setuptools_pip_is_not_tried(commands, monkeypatch, capsys):
    calls, _ = commands
    monkeypatch.setattr(install, "outdated_setuptools", lambda: "setuptools is 68.1")
    assert install.main() == 0
    assert programs(calls) == ["cmake", "cmake", "bench.environment"]
    assert "since setuptools is 68.1" in capsys.readouterr().out


def test_where_cmake_fails_too_its_status_is_returned(commands):
    calls, statuses = commands
    statuses.update(pip=1, cmake=7)
    assert install.main() == 7
    assert programs(calls) == ["pip", "cmake"]


def test_without_pybind11_it_says_so(commands, monkeypatch, capsys):
    _, statuses = commands
    statuses["pip"] = 1
    monkeypatch.setitem(sys.modules, "pybind11", None)
    assert install.main() == 1
    assert "pybind11 is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "reason"),
    [("76.1.0", "setuptools is 76.1.0, and pyproject.toml needs 77"), ("77.0.3", None), ("80.9", None)],
)
def test_the_setuptools_that_pyproject_needs(monkeypatch, tmp_path, version, reason):
    monkeypatch.setattr(install, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('requires = ["setuptools>=77", "ninja"]\n')
    monkeypatch.setattr(install.metadata, "version", lambda name: version)
    assert install.outdated_setuptools() == reason
    (tmp_path / "pyproject.toml").write_text('requires = ["ninja"]\n')
    assert install.outdated_setuptools() is None


@pytest.mark.slow
def test_cmake_builds_an_extension_that_imports(tmp_path):
    assert install.cmake_build({**install.os.environ, "FASTMMD_CUDA": "off"}, tmp_path) == 0
    (extension,) = tmp_path.glob("_C*.so")
    program = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('fastmmd._C', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); print(module.ABI)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(extension)]).returncode == 0


def test_what_a_build_says_of_itself_is_printed_and_all_of_it_kept(capsys):
    program = "import sys; print('noise'); print('  fastmmd: compiling'); sys.exit(4)"
    assert install._stream((sys.executable, "-c", program), dict(os.environ)) == (4, "noise\n  fastmmd: compiling\n")
    assert capsys.readouterr().out == "fastmmd: compiling\n"
