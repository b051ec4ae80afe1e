"""Installing for the GPU at hand, with pip and without it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import install


@pytest.fixture
def commands(monkeypatch):
    """The commands that would be run, and the exit statuses to give them, by `program`."""
    calls = []
    statuses = {}

    def instead(command, env=None, **options):
        calls.append(list(command))
        output = f"noise\n  fastmmd: built _C.so: CUDA kernels for {env and env.get('FASTMMD_CUDA_ARCHS')}\nmore noise"
        return subprocess.CompletedProcess(
            command, statuses.get(program(calls[-1]), 0), output, "an error\nits last line"
        )

    def streamed(command, settings):
        done = instead(command, settings)
        print(*(line.strip() for line in done.stdout.splitlines() if "fastmmd: " in line), sep="\n")
        return done.returncode, done.stdout

    monkeypatch.setattr(install.subprocess, "run", instead)
    monkeypatch.setattr(install, "_stream", streamed)
    monkeypatch.setattr(install.signal, "signal", lambda *_: None)
    monkeypatch.setattr(install, "link_packages", lambda: calls.append(["links"]))
    monkeypatch.setattr(install, "unlink_packages", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(install, "outdated_setuptools", lambda: None)
    monkeypatch.delenv("FASTMMD_CUDA_ARCHS", raising=False)
    return calls, statuses


def program(command):
    """What a command runs: "pip", "cmake", "links", "imports" (of what pip has installed) or a module of bench."""
    if command[:2] == [sys.executable, "-m"]:
        return command[2]
    return "imports" if command[0] == sys.executable else command[0]


def programs(calls):
    return [program(command) for command in calls]


@pytest.mark.parametrize("given", ["", "80;90"])
def test_pip_compiles_for_the_gpu_at_hand_without_network(commands, monkeypatch, capsys, given):
    calls, _ = commands
    if given:
        monkeypatch.setenv("FASTMMD_CUDA_ARCHS", given)
    assert install.main() == 0
    assert programs(calls) == ["pip", "imports", "bench.environment"]
    assert {"--no-build-isolation", "--no-deps", "--no-index"} <= set(calls[0])
    assert calls[0][-2:] == ["-e", str(install.ROOT)]
    assert capsys.readouterr().out == f"fastmmd: built _C.so: CUDA kernels for {given or '90'}\n"


def test_where_pip_fails_packages_are_linked_and_cmake_builds_into_the_tree(commands, capsys):
    calls, statuses = commands
    statuses["pip"] = 1
    assert install.main() == 0
    assert programs(calls) == ["pip", "links", "cmake", "cmake", "bench.environment"]
    assert f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={install.ROOT / 'fastmmd'}" in calls[2]
    assert "-DFASTMMD_CUDA_ARCHS=90" in calls[2]
    output = capsys.readouterr().out
    assert "more noise" in output  # all of pip's
    assert "CMake builds into the source tree, since pip ended with status 1" in output


def test_where_python_does_not_find_what_pip_installed_packages_are_linked(commands, capsys):
    calls, statuses = commands
    statuses["imports"] = 1
    assert install.main() == 0
    assert programs(calls) == ["pip", "imports", "links", "cmake", "cmake", "bench.environment"]
    assert "since what pip has installed can't be imported: its last line" in capsys.readouterr().out


def test_where_pip_runs_out_of_time_packages_are_linked(commands, monkeypatch):
    """The runner of stages asks the process to end (`stages.Runner`)."""
    calls, _ = commands

    def out_of_time(command, settings):
        install._end()

    monkeypatch.setattr(install, "_stream", out_of_time)
    with pytest.raises(SystemExit) as ended:
        install.main()
    assert ended.value.code == 128 + signal.SIGTERM
    assert programs(calls) == ["links"]


def test_with_an_old_setuptools_pip_is_not_tried(commands, monkeypatch, capsys):
    calls, _ = commands
    monkeypatch.setattr(install, "outdated_setuptools", lambda: "setuptools is 68.1")
    assert install.main() == 0
    assert programs(calls) == ["links", "cmake", "cmake", "bench.environment"]
    assert "since setuptools is 68.1" in capsys.readouterr().out


def test_where_cmake_fails_too_its_status_is_returned(commands):
    calls, statuses = commands
    statuses.update(pip=1, cmake=7)
    assert install.main() == 7
    assert programs(calls) == ["pip", "links", "cmake"]


def test_missing_pybind11_is_named(commands, monkeypatch, capsys):
    _, statuses = commands
    statuses["pip"] = 1
    monkeypatch.setitem(sys.modules, "pybind11", None)
    assert install.main() == 1
    assert "pybind11 is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "reason"),
    [("76.1.0", "setuptools is 76.1.0, and pyproject.toml needs 77"), ("77.0.3", None), ("80.9", None)],
)
def test_setuptools_older_than_pyproject_needs_is_refused(monkeypatch, tmp_path, version, reason):
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


def test_linked_packages_are_imported_from_the_checkout(tmp_path):
    for package in install.ELSEWHERE:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "fastmmd").mkdir()
    (tmp_path / "fastmmd" / "__init__.py").write_text("")
    (tmp_path / "fastmmd" / "models").symlink_to("nowhere")
    install.link_packages(tmp_path)
    program = "import fastmmd.kernels, fastmmd.models; print(fastmmd.kernels.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert Path(done.stdout.strip()).resolve() == tmp_path / "kernels" / "__init__.py", done.stderr
    install.unlink_packages(tmp_path)
    assert [path.name for path in (tmp_path / "fastmmd").iterdir() if path.is_symlink()] == []


def test_lines_of_setup_py_are_printed_and_all_output_is_kept(capsys):
    program = "import sys; print('noise'); print('  fastmmd: compiling'); sys.exit(4)"
    assert install._stream((sys.executable, "-c", program), dict(os.environ)) == (4, "noise\n  fastmmd: compiling\n")
    assert capsys.readouterr().out == "fastmmd: compiling\n"
