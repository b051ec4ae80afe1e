"""bench/gpu.py without a GPU: what it says, records and leaves out."""

import subprocess
import sys
import time

import pytest
import torch

from bench import environment, gpu, throughput
from bench.cases import CASES
from bench.competitors import automatic, line_up
from bench.report import Report, StepShare
from fastmmd import dispatch
from tests.bench.test_gate import CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_it_needs(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no CUDA device" in said
    assert "compute capability 8.0" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def one_small_case(monkeypatch):
    """What `examine` measures on a CPU in its place."""
    monkeypatch.setattr(throughput, "select", lambda device: CASES[:1])
    monkeypatch.setattr(throughput, "line_up", lambda backends: line_up()[:1])
    monkeypatch.setattr(gpu, "sanitize", lambda log, seconds: {"compute-sanitizer": "not installed"})
    share = StepShare("fp32", "fastmmd", "torchvision is not installed")
    monkeypatch.setattr(gpu.training, "shares", lambda *_, **__: iter([share]))


def examine(tmp_path, minutes=1.0):
    out = tmp_path / "a-gpu.json"
    report = Report(environment.describe(CPU), {}, [])
    return gpu.examine(report, CPU, out, time.monotonic() + 60 * minutes), Report.load(out)


@pytest.mark.usefixtures("one_small_case")
def test_tests_come_first_then_results(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "run_tests", lambda log, seconds: (True, "passed: 200 passed in 90 s"))
    status, report = examine(tmp_path)
    assert status == 0
    assert report.checks == {"tests": "passed: 200 passed in 90 s", "compute-sanitizer": "not installed"}
    assert [result.case for result in report.results] == [CASES[0].name]
    assert report.results[0].seconds
    assert report.results[0].backend == automatic(CASES[0], CPU)
    assert report.training[0].skipped == "torchvision is not installed"
    table = (tmp_path / "a-gpu.md").read_text()
    assert "* tests: passed: 200 passed in 90 s" in table
    assert "| fp32 | fastmmd | torchvision is not installed | - |" in table


@pytest.mark.usefixtures("one_small_case")
def test_nothing_is_timed_after_a_failed_test(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "run_tests", lambda log, seconds: (False, "FAILED: 1 failed, 9 passed in 9 s"))
    status, report = examine(tmp_path)
    assert status == 1
    assert report.checks == {"tests": "FAILED: 1 failed, 9 passed in 9 s"}
    assert not report.results
    assert not report.training
    assert "FAILED" in (tmp_path / "a-gpu.md").read_text()


@pytest.mark.parametrize(
    ("program", "passed", "outcome"),
    [
        ("print('...'); print('=== 3 passed in 1.00s ===')", True, "passed: 3 passed in 1.00s"),
        ("import sys; print('1 failed in 1.00s'); sys.exit(1)", False, "FAILED: 1 failed in 1.00s"),
        ("import sys; sys.exit(1)", False, "FAILED: no output"),
        ("import time; print('.', flush=True); time.sleep(9)", False, "FAILED: not finished in 1 s"),
    ],
)
def test_the_outcome_of_the_tests_is_their_last_line(tmp_path, monkeypatch, program, passed, outcome):
    start = subprocess.Popen

    def instead(command, **options):
        assert command[:4] == [sys.executable, "-m", "pytest", "tests/test_gpu.py"]
        return start([sys.executable, "-c", program], **options)

    monkeypatch.setattr(gpu.subprocess, "Popen", instead)
    log = tmp_path / "new" / "tests.txt"
    assert gpu.run_tests(log, 1.0) == (passed, outcome)
    assert log.exists()


def test_what_a_command_started_ends_with_it(tmp_path):
    begin = time.monotonic()
    assert gpu.finish(["sh", "-c", "sleep 60 & echo $!; sleep 60"], tmp_path / "log", 0.5) is None
    assert time.monotonic() < begin + 30
    child = int((tmp_path / "log").read_text())
    while runs(child):
        assert time.monotonic() < begin + 30


def runs(process):
    """A process that nobody waits for stays listed after its end."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """Writes the tool."""

    def write(script):
        tool = tmp_path / "compute-sanitizer"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (
            "echo '========= ERROR SUMMARY: 0 errors'; echo '16 passed, 9 deselected in 9 s'",
            "ERROR SUMMARY: 0 errors; 16 passed, 9 deselected in 9 s",
        ),
        ("echo '========= ERROR SUMMARY: 2 errors'; exit 86", "ERROR SUMMARY: 2 errors"),
        ("echo '========= Error: Device not supported'; exit 1", "refused or failed: Error: Device not supported"),
        ("exit 3", "refused or failed: exit status 3"),
        ("sleep 60", "not finished in 1 s"),
    ],
)
def test_sanitizers_are_never_fatal(tmp_path, sanitizer, script, outcome):
    sanitizer(script)
    found = gpu.sanitize(tmp_path / "log", 1.0)
    assert found == {f"compute-sanitizer {name}": outcome for name in gpu.SANITIZERS}
    assert "== synccheck\n" in (tmp_path / "log").read_text()


def test_each_sanitizer_has_a_line_of_its_own(tmp_path, sanitizer):
    sanitizer('[ "$2" = racecheck ] && sleep 60; echo "========= $*"')
    found = gpu.sanitize(tmp_path / "log", 2.0)
    assert found.pop("compute-sanitizer racecheck") == "not finished in 2 s"
    for name in ("memcheck", "initcheck", "synccheck"):
        assert f"--tool {name} --error-exitcode 86 {sys.executable}" in found[f"compute-sanitizer {name}"]


def test_without_a_sanitizer(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.shutil, "which", lambda name, path=None: None)
    assert gpu.sanitize(tmp_path / "log", 1.0) == {"compute-sanitizer": "not installed"}


@pytest.mark.parametrize(("given", "archs"), [("", "90"), ("80;90", "80;90")])
def test_installation_compiles_for_the_gpu_at_hand(monkeypatch, capsys, given, archs):
    def instead(command, env, **options):
        assert {"--no-build-isolation", "--no-deps", str(gpu.ROOT)} <= set(command)
        said = f"noise\n  fastmmd: built _C.so: CUDA kernels for {env['FASTMMD_CUDA_ARCHS']}\nmore noise"
        return subprocess.CompletedProcess(command, 0, said)

    monkeypatch.setenv("FASTMMD_CUDA_ARCHS", given)
    monkeypatch.setattr(gpu.subprocess, "run", instead)
    assert gpu.install((9, 0)) == 0
    assert capsys.readouterr().out == f"fastmmd: built _C.so: CUDA kernels for {archs}\n"


def test_a_failed_installation_says_everything(monkeypatch, capsys):
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), 1, "error: no luck"))
    assert gpu.install((9, 0)) == 1
    assert "error: no luck" in capsys.readouterr().out


def test_a_backend_is_measured_once(monkeypatch):
    """Beside "auto" the one that it takes is left out, and auto's rows name it."""
    monkeypatch.setattr(dispatch, "unavailable", lambda name, device: "no CUDA" if name == "cuda" else None)
    auto, cuda, triton, plain = line_up(("auto", "cuda", "triton", "torch"))[:4]
    taken = automatic(CASES[0], CPU)
    assert taken == "cpu"
    monkeypatch.setattr(dispatch, "choose", lambda name, device, problem: "triton" if problem.n > 99 else "torch")
    few, many = CASES[0], next(case for case in CASES if case.n > 99)
    refusals = [[c.refuses(case, CPU) for c in (auto, cuda, triton, plain)] for case in (few, many)]
    assert refusals == [[None, "no CUDA", None, BY_ITSELF], [None, "no CUDA", BY_ITSELF, None]]
    (named,) = line_up(("triton",))[:1]
    assert named.refuses(many, CPU) is None


BY_ITSELF = "it is what fastmmd takes by itself"
