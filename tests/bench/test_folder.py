"""Rendering what bench/gpu.py has left in a folder, whatever that is."""

import json
from dataclasses import asdict

import pytest

from bench import environment, folder, proposals, report
from bench.profiling import Kernel
from bench.record import Report
from tests.bench.test_gate import CPU
from tests.bench.test_values import line_of

FILES = ("log.txt", "values.jsonl", "tests.txt", "sanitizer.txt", "tuning.json", "profile.json", "gpu.json")


@pytest.fixture
def whole(tmp_path):
    """A folder with every file."""
    (tmp_path / "log.txt").write_text(
        "[   1.0 s] build: status 0 after 1 s\nwords of a stage\n[   2.0 s] main: 9 s at most: x\n"
    )
    wrong = line_of("torch") | {"right": False, "gradient_error": 0.5}
    failed = {"route": "cuda", "precision": "ieee", "dtype": "float32", "right": False, "failed": "illegal access"}
    lines = [line_of("torch"), wrong, failed, {"route": "triton", "absent": "no compiler"}, {"summary": {"right": 1}}]
    (tmp_path / "values.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "tests.txt").write_text(
        "[gw0] [ 50%] PASSED tests/gpu/test_a.py::test_a\n[gw1] [ 99%] FAILED tests/gpu/test_b.py::test_b[1-2]\n"
        "FAILED tests/gpu/test_b.py::test_b[1-2] - AssertionError: far off\n=== 1 failed, 1 passed in 9.00s ===\n"
    )
    (tmp_path / "sanitizer.txt").write_text(
        "memcheck: ========= ERROR SUMMARY: 0 errors\nmemcheck: exit status 0\nracecheck: tests ...\n"
    )
    timings = proposals.Timings("a job", "small(1)", {"small(1)": {"36+36": 2e-6}, "small(2)": {"36+36": 1e-6}})
    timings.ratio, timings.dropped = {"small(1)": 1.0, "small(2)": 0.5}, {"small(3)": "wrong"}
    routes = [{"title": "small: d 256", "seconds": {"128": {proposals.EAGER: {"cuda small": 3e-6}}}}]
    (tmp_path / "tuning.json").write_text(json.dumps({"jobs": [vars(timings)], "routes": routes}))
    kernel = asdict(Kernel("a case", "cuda", "a_kernel", 1, 1e-6))
    (tmp_path / "profile.json").write_text(json.dumps({"tool": "ncu", "refusal": None, "kernels": [kernel]}))
    Report(environment.describe(CPU), {}, []).save(tmp_path / "gpu.json")
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    return tmp_path


def test_every_file_of_a_folder_is_rendered(whole, capsys):
    assert report.main([str(whole)]) == 0
    text = capsys.readouterr().out
    assert "* [   1.0 s] build: status 0 after 1 s\n" in text
    assert "words of a stage" not in text
    assert "1 right, 1 wrong, 1 failed, 1 absent.\n" in text
    assert "| torch | 1 | 1 | 0 | ieee float32 5.0e-01 |" in text
    assert '* failed: {"route": "cuda"' in text
    assert "| triton | absent: no compiler |" in text
    assert (
        "1 failed, 1 passed in 9.00s.\n\n* FAILED tests/gpu/test_b.py::test_b[1-2] - AssertionError: far off\n" in text
    )
    assert "* memcheck: ERROR SUMMARY: 0 errors; exit status 0\n" in text
    assert "* racecheck: not finished\n" in text
    assert "| small(2) | 1.0 | 0.500 |\n| small(1) (present) | 2.0 | 1.000 |" in text
    assert "| 128, eager | 3.0 |" in text
    assert "| a case | cuda | a_kernel | 1 | 1 |" in text
    assert "# Throughput and memory" in text
    assert "Missing" not in text


@pytest.mark.parametrize("name", FILES)
def test_what_is_missing_is_named_and_the_rest_is_rendered(whole, name):
    before = folder.render(whole)
    (whole / name).unlink()
    text = folder.render(whole)
    assert f"Missing: there is no {name}." in text
    assert text.count("Missing: ") == 1
    assert [line for line in before.splitlines() if line.startswith("# ") and line != "# Throughput and memory"] == [
        line for line in text.splitlines() if line.startswith("# ") and line != "# Throughput and memory"
    ]


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_does_not_hide_the_rest(whole, name):
    path = whole / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = folder.render(whole)
    assert text.count("\n# ") >= 6
    if name.endswith(".json"):
        assert f"{name} can't be read: JSONDecodeError" in text


def test_values_without_their_last_line_are_said_to_be_cut_off(tmp_path):
    line = json.dumps(line_of("torch"))
    (tmp_path / "values.jsonl").write_text(f"{line}\n{line[:50]}")
    assert folder.checks(tmp_path)["values"] == "1 right, 0 wrong, 0 failed, 0 absent; cut off"


def test_every_file_of_an_empty_folder_is_missing(tmp_path):
    assert folder.render(tmp_path).count("Missing: ") == len(FILES)
    assert folder.checks(tmp_path) == {}


def test_long_lists_are_shortened(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MOST_LINES", 2)
    lines = [json.dumps(line_of("torch") | {"right": False}) for _ in range(5)]
    (tmp_path / "values.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "tests.txt").write_text("".join(f"FAILED tests/gpu/test_values.py::test_{n}\n" for n in range(6)))
    text = folder.render(tmp_path)
    assert text.count("* wrong: ") == 2
    assert "* and 3 more" in text
    assert "* and 4 more" in text
