"""compute-sanitizer, replaced by a shell script."""

import sys

import pytest

from bench import environment, folder, sanitizer


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Writes the script."""

    def write(script):
        path = tmp_path / "compute-sanitizer"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


def run(capsys, tmp_path):
    """The exit status, and how folder.py reads what was printed."""
    status = sanitizer.main(["memcheck", "racecheck"])
    log = tmp_path / "sanitizer.txt"
    log.write_text(capsys.readouterr().out)
    return status, folder._verdicts(log)


@pytest.mark.parametrize(
    ("script", "status", "verdict"),
    [
        (
            "echo '========= ERROR SUMMARY: 0 errors'; echo '16 passed, 9 deselected in 9 s'",
            0,
            "ERROR SUMMARY: 0 errors; 16 passed, 9 deselected in 9 s; exit status 0",
        ),
        ("echo '========= ERROR SUMMARY: 2 errors'; exit 86", 1, "ERROR SUMMARY: 2 errors; exit status 86"),
        ("echo '========= Error: Device not supported'; exit 1", 0, "Error: Device not supported; exit status 1"),
        ("exit 3", 0, "exit status 3"),
    ],
)
def test_errors_count_and_a_refusal_does_not(tmp_path, tool, capsys, script, status, verdict):
    tool(script)
    assert run(capsys, tmp_path) == (status, {"memcheck": verdict, "racecheck": verdict})


def test_each_tool_has_lines_of_its_own(tmp_path, tool, capsys):
    tool('[ "$2" = racecheck ] && exit 86; echo "========= $*"')
    status, verdicts = run(capsys, tmp_path)
    assert status == 1
    assert verdicts["racecheck"] == "exit status 86"
    assert f"--tool memcheck --error-exitcode 86 {sys.executable}" in verdicts["memcheck"]


def test_a_tool_that_was_ended_has_not_finished(tmp_path):
    log = tmp_path / "sanitizer.txt"
    log.write_text(
        "racecheck: collected 16 items\nmemcheck: exit status 0\nracecheck: tests/gpu/test_sanitizer.py ...\n"
    )
    assert folder._verdicts(log) == {"racecheck": "not finished", "memcheck": "exit status 0"}


def test_absent_sanitizer_is_no_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "tool", lambda name: None)
    assert run(capsys, tmp_path) == (0, {"compute-sanitizer": "not installed"})
