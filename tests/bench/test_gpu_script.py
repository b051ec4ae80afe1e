"""bench/gpu.py without a GPU: what it says, records and leaves out."""

import subprocess
import sys
import time

import pytest
import torch

from bench import environment, gpu, throughput
from bench.cases import CASES
from bench.competitors import line_up
from bench.report import Report, StepShare
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
    monkeypatch.setattr(gpu, "sanitize", lambda: "not installed")
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
    run = subprocess.run

    def instead(command, **options):
        assert command[:4] == [sys.executable, "-m", "pytest", "tests/test_gpu.py"]
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr(gpu.subprocess, "run", instead)
    log = tmp_path / "new" / "tests.txt"
    assert gpu.run_tests(log, 1.0) == (passed, outcome)
    assert log.exists()


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("echo '========= ERROR SUMMARY: 0 errors'", "memcheck: ERROR SUMMARY: 0 errors"),
        ("echo '========= ERROR SUMMARY: 2 errors'; exit 86", "memcheck: ERROR SUMMARY: 2 errors"),
        (
            "echo '========= Error: Device not supported'; exit 1",
            "memcheck refused or failed: Error: Device not supported",
        ),
        ("exit 3", "memcheck refused or failed: exit status 3"),
        ("exec sleep 9", "memcheck not finished in 0.5 s"),
    ],
)
def test_the_sanitizer_is_never_fatal(tmp_path, monkeypatch, script, outcome):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gpu, "SANITIZER_SECONDS", 0.5)
    assert gpu.sanitize() == outcome


def test_without_a_sanitizer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.sanitize() == "not installed"
