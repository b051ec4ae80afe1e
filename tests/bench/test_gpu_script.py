"""bench/gpu.py without a GPU: its plan, its files, and what it does where nothing can be measured."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import environment, gpu, stages
from bench.cases import CASES
from bench.competitors import automatic, line_up
from fastmmd import dispatch
from fastmmd.backends import torch_tiles
from tests.bench.test_gate import CPU

SCRIPT = str(Path(gpu.__file__))
ORDER = ["build", "values", "tests", "sanitizer", "main", "tuning", "profile", "training", "launches", "rest"]
FILES = {"log.txt", "values.jsonl", "tests.txt", "sanitizer.txt", "gpu.json", "tuning.json", "profile.json"}
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_dry_run_prints_stages_limits_and_order_without_packages(tmp_path):
    """-S: without site-packages, so on any machine."""
    out = tmp_path / "new"
    command = [sys.executable, "-S", SCRIPT, "--dry-run", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[1:-1]] == ["environment", *ORDER, "report"]
    assert lines[-1].split()[0] == "560"
    assert not out.exists()


def test_dry_run_lists_the_stages_that_are_asked_for(capsys):
    assert gpu.main(["--dry-run", "--only", "main,values", "--seconds", "300"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:-1]] == ["environment", "values", "main", "report"]
    assert lines[-1].split()[0] == "300"


def test_an_unknown_stage_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--only", "values,speed"])
    assert "--only: unknown stages speed; expected some of build, values" in capsys.readouterr().err


def test_all_limits_together_leave_time_for_the_rest():
    steps = {}
    for stage in (gpu.ENVIRONMENT, *gpu.STAGES, gpu.REPORT):
        steps[stage.step or stage.name] = max(steps.get(stage.step or stage.name, 0), stage.seconds or 0)
    assert gpu.SECONDS == 560
    assert sum(steps.values()) + stages.GRACE < gpu.SECONDS
    assert [stage.name for stage in gpu.STAGES if stage.seconds is None] == ["rest"]


def test_values_come_before_anything_is_timed_and_tests_run_beside_them():
    assert [stage.name for stage in gpu.STAGES] == ORDER
    assert [stage.name for stage in gpu.STAGES if stage.step == "values"] == ["values", "tests", "sanitizer"]
    assert not any(stage.essential for stage in gpu.STAGES)


def test_the_documents_table_is_the_plan():
    rows = re.findall(
        r"^\| (\w+) \| (\d+|what is left) \|.*\| ([\w.]*) ?\|$", (gpu.ROOT / "docs/gpu.md").read_text(), re.M
    )
    listed = [(name, None if limit == "what is left" else float(limit)) for name, limit, _ in rows]
    assert listed == [(stage.name, stage.seconds) for stage in (gpu.ENVIRONMENT, *gpu.STAGES, gpu.REPORT)]
    assert {file for _, _, file in rows if file} == FILES


def test_stages_write_the_listed_files_and_none_in_a_subfolder():
    named = {word.removeprefix("{out}/") for stage in gpu.STAGES for word in stage.command if word.startswith("{out}/")}
    logs = {stage.log for stage in (gpu.ENVIRONMENT, *gpu.STAGES, gpu.REPORT) if stage.log}
    assert named | logs == FILES
    assert not any("/" in name for name in FILES)


MODULES = [stage for stage in gpu.STAGES if stage.command[2].startswith("bench.")]


@pytest.mark.parametrize("stage", [gpu.ENVIRONMENT, *MODULES, gpu.REPORT], ids=lambda stage: stage.name)
def test_every_stage_is_a_module_that_takes_its_arguments(stage, capsys):
    """With --help added its parser accepts them and ends with 0."""
    python, dash, name, *words = stage.command
    assert (python, dash) == (sys.executable, "-m")
    module = importlib.import_module(name)
    if any(word.startswith("--") for word in words):
        with pytest.raises(SystemExit) as ended:
            module.main([*(word.format(out="x", seconds="9.0") for word in words), "--help"])
        assert ended.value.code == 0
        assert "usage" in capsys.readouterr().out
    else:
        assert callable(module.main)


@without_a_gpu
def test_without_a_gpu_it_says_what_it_needs_and_starts_nothing(tmp_path):
    command = [sys.executable, SCRIPT, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot measure here: no CUDA device" in done.stdout
    assert "compute capability 8.0" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt"}
    assert "build:" not in (tmp_path / "log.txt").read_text()


@without_a_gpu
def test_failing_stage_is_noted_and_the_report_is_rendered(tmp_path, monkeypatch):
    """As on a machine whose GPU went away."""
    probe = stages.Stage("environment", "", 30, (sys.executable, "-c", "print('a GPU')"), "", essential=True)
    quick = [stage for stage in gpu.STAGES if stage.name == "main"]
    monkeypatch.setattr(gpu, "ENVIRONMENT", probe)
    monkeypatch.setattr(gpu, "STAGES", tuple(quick))
    monkeypatch.setattr(gpu, "REPORT", replace(gpu.REPORT, seconds=120.0))  # the machine may be busy
    assert gpu.main(["--out", str(tmp_path)]) == 1
    log = (tmp_path / "log.txt").read_text()
    for stage in quick:
        assert f"{stage.name}: status " in log
    assert {path.name for path in tmp_path.iterdir()} <= FILES
    assert "report: status 0" in log


def test_stages_share_what_is_compiled_and_find_tools_beside_python(monkeypatch):
    settings = gpu._settings("/caches", "abc")
    assert settings["TRITON_CACHE_DIR"].startswith("/caches/")
    assert settings["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    monkeypatch.setenv("FASTMMD_REVISION", settings["FASTMMD_REVISION"])
    monkeypatch.setattr(environment, "_git", lambda *_: None)
    assert environment.describe(CPU)["revision"] == "abc"


def test_the_environment_names_what_runs_and_what_does_not(monkeypatch, capsys):
    monkeypatch.setattr(environment, "missing", lambda: None)
    monkeypatch.setattr(environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    info = {"backends": {"cuda": "no nvcc", "torch": None}}
    monkeypatch.setattr(environment.fastmmd, "build_info", lambda: info)
    assert environment.main() == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["gpu:", "a GPU"]
    assert [line[1].split(":")[1].strip() for line in lines[1:]] == ["no nvcc", "runs"]


def test_a_missing_package_is_named(monkeypatch):
    specs = {"pytest": object(), "numpy": object()}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(environment.importlib.util, "find_spec", specs.get)
    assert environment.missing() == "not installed: triton"


def test_a_backend_is_measured_once(monkeypatch):
    """Beside "auto" the one that it takes is left out, and auto's rows name it."""

    def choose(name, call):
        return "triton" if call.problem.n > 99 else "torch"

    monkeypatch.setattr(dispatch, "unavailable", lambda name, device: {"cuda": "no CUDA"}.get(name))
    auto, cuda, triton, plain = line_up(("auto", "cuda", "triton", "torch"))[:4]
    monkeypatch.setattr(dispatch, "choose", choose)
    few, many = CASES[0], next(case for case in CASES if case.n > 99)
    refusals = [[c.refuses(case, CPU) for c in (auto, cuda, triton, plain)] for case in (few, many)]
    assert refusals == [[None, "no CUDA", None, BY_ITSELF], [None, "no CUDA", BY_ITSELF, None]]
    (named,) = line_up(("triton",))[:1]
    assert named.refuses(many, CPU) is None


BY_ITSELF = "it is what fastmmd takes by itself"


def test_a_backend_that_does_not_support_a_case_is_left_out_of_it(monkeypatch):
    monkeypatch.setattr(torch_tiles, "supports", lambda call: "too many rows" if call.problem.n > 99 else None)
    (plain,) = line_up(("torch",))[:1]
    few, many = CASES[0], next(case for case in CASES if case.n > 99)
    assert [plain.absent(case, CPU, 2**30) for case in (few, many)] == [None, "too many rows"]


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_auto_takes_the_cpu_backend_for_cpu_tensors(case):
    if reason := dispatch.unavailable("cpu", CPU):
        pytest.skip(reason)
    assert automatic(case, CPU) == "cpu"
