"""The parts of the benchmark that fill one record, on a CPU in a GPU's place."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import rows, throughput
from bench.cases import JAN, Case, main_rows
from bench.competitors import DENSE, FASTMMD, Competitor, line_up
from bench.record import NO_TIME, Report, Result
from tests.bench.test_gate import CPU

ROOT = Path(__file__).parents[2]
MAIN, OTHER = Case("main", 6, 5, (4, 3), JAN), Case("other", 5, 6, (4,), JAN[:1])


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    options = [{"7": "3", "0.25": "0.01", "1": "600"}.get(word, word) for word in rows.OPTIONS]
    monkeypatch.setattr(rows, "OPTIONS", tuple(options))
    monkeypatch.setattr(rows, "main_rows", lambda: (MAIN,))


@pytest.fixture
def few(monkeypatch):
    """fastmmd and a dense version alone."""
    competitors = tuple(competitor for competitor in line_up() if competitor.name in (FASTMMD, DENSE))
    monkeypatch.setattr(throughput, "line_up", lambda backends: competitors)


def measure(report, part, out, seconds=60.0, cases=(MAIN, OTHER)):
    rows.measure_part(report, part, cases, CPU, seconds, out)
    return [result.case for result in Report.load(out).results if result.seconds]


@pytest.mark.usefixtures("few")
def test_main_rows_come_first_and_then_the_rest(tmp_path):
    out = tmp_path / "gpu.json"
    report = Report({"gpu": "a GPU"}, {}, [])
    assert measure(report, "main", out) == [MAIN.name] * 2
    assert measure(Report.load(out), "rest", out) == [MAIN.name] * 2 + [OTHER.name] * 2


@pytest.mark.usefixtures("few")
def test_what_is_measured_is_not_measured_again(tmp_path):
    out = tmp_path / "gpu.json"
    report = Report({}, {}, [Result(MAIN.name, "kept")])
    measure(report, "main", out)
    measure(report, "rest", out)
    results = [(result.case, result.competitor) for result in Report.load(out).results]
    assert results == [(MAIN.name, "kept"), (OTHER.name, FASTMMD), (OTHER.name, DENSE)]


@pytest.mark.usefixtures("few")
def test_rows_without_time_are_tried_again(tmp_path):
    out = tmp_path / "gpu.json"
    report = Report({}, {}, [])
    assert measure(report, "main", out, seconds=-1.0) == []
    assert {result.skipped for result in report.results} == {NO_TIME}
    assert measure(Report.load(out), "rest", out) == [MAIN.name] * 2 + [OTHER.name] * 2


def test_a_wrong_row_stops_no_other(tmp_path, monkeypatch):
    """Each is compared with fp64 for itself."""
    wrong = Competitor("wrong", lambda case: lambda sources, targets: sum(x.sum() for x in (*sources, *targets)))
    monkeypatch.setattr(throughput, "line_up", lambda backends: (wrong, line_up()[0]))
    report = Report({}, {}, [])
    assert measure(report, "main", tmp_path / "gpu.json", cases=(MAIN,)) == [MAIN.name]
    assert [(result.competitor, result.wrong) for result in report.results] == [("wrong", True), (FASTMMD, False)]


DIED = "failed: its process crashed or hung"


@pytest.mark.usefixtures("few")
def test_the_record_is_saved_after_every_case(tmp_path, monkeypatch):
    """What a kill costs is the case in progress, and that one is known to have failed."""
    out = tmp_path / "gpu.json"
    run, saved = throughput.run, []

    def noting(case, *arguments):
        saved.append([(result.case, result.skipped) for result in Report.load(out).results])
        return run(case, *arguments)

    monkeypatch.setattr(throughput, "run", noting)
    measure(Report({}, {}, []), "rest", out)
    assert saved == [[(MAIN.name, DIED)], [(MAIN.name, None)] * 2 + [(OTHER.name, DIED)]]


@pytest.mark.usefixtures("few")
def test_a_process_that_is_asked_to_end_leaves_the_case_to_the_next(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"

    def ends(*_):
        raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(throughput, "run", ends)
        with pytest.raises(SystemExit):
            measure(Report({}, {}, []), "main", out)
    assert measure(Report.load(out), "rest", out) == [MAIN.name] * 2 + [OTHER.name] * 2


def test_after_a_crash_the_next_process_goes_on_behind_it(tmp_path):
    """The first process measures a case in which it crashes."""
    out = tmp_path / "gpu.json"
    program = (
        "import os, pathlib, sys, torch; from bench import rows, throughput; from bench.report import Report\n"
        "throughput.run = lambda case, *_: os.abort()\n"
        "cases = rows.main_rows()[:1]\n"
        "rows.measure_part(Report({}, {}, []), 'main', cases, torch.device('cpu'), 60.0, pathlib.Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(out)], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGABRT
    (result,) = Report.load(out).results
    assert (result.case, result.skipped, result.failed) == (main_rows()[0].name, DIED, True)


@pytest.mark.usefixtures("few")
def test_where_the_device_is_unusable_a_new_process_measures_what_is_left(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    illegal = [Result(MAIN.name, FASTMMD, "failed: AcceleratorError: illegal memory access")]
    monkeypatch.setattr(throughput, "run", lambda *_: list(illegal))
    monkeypatch.setattr(rows.measure, "usable", lambda device: False)
    monkeypatch.setattr(rows.environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(throughput, "select", lambda device: [MAIN, OTHER])
    monkeypatch.setattr(rows.signal, "signal", lambda *_: None)
    started = []
    monkeypatch.setattr(rows.os, "execv", lambda program, words: started.append(words))
    monkeypatch.setattr(rows.torch, "device", lambda *_: CPU)
    assert rows.main(["rest", "--out", str(out), "--seconds", "60"]) == 1
    ((*command, left),) = started
    assert command == [sys.executable, "-m", "bench.rows", "rest", "--out", str(out), "--seconds"]
    assert 0 < float(left) <= 60
    assert [result.case for result in Report.load(out).results] == [MAIN.name]


@pytest.mark.usefixtures("few")
def test_an_error_outside_the_competitors_fails_its_case_alone(tmp_path, monkeypatch):
    """On an unusable device the yardsticks fail too."""
    out, run = tmp_path / "gpu.json", throughput.run

    def once_broken(case, *arguments):
        if case == MAIN:
            raise RuntimeError("illegal memory access")
        return run(case, *arguments)

    monkeypatch.setattr(throughput, "run", once_broken)
    report = Report({}, {}, [])
    assert rows.measure_part(report, "rest", [MAIN, OTHER], CPU, 60.0, out)
    first, *others = Report.load(out).results
    assert (first.case, first.failed) == (MAIN.name, True)
    assert "illegal memory access" in first.skipped
    assert {result.case for result in others} == {OTHER.name}
    monkeypatch.setattr(rows.measure, "usable", lambda device: False)
    assert not rows.measure_part(Report({}, {}, []), "rest", [MAIN, OTHER], CPU, 60.0, tmp_path / "other.json")


@pytest.mark.usefixtures("few")
def test_launches_are_counted_of_what_is_measured_alone(tmp_path, monkeypatch):
    def launches(action):
        action()
        return 7

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(throughput.measure, "launches", launches)
    report = Report({}, {}, [])
    measure(report, "main", out)
    counted = [competitor for competitor in line_up() if competitor.name == FASTMMD]
    throughput.count_launches(report, [MAIN, OTHER], counted, CPU, out)
    counts = {result.competitor: result.launches for result in Report.load(out).results}
    assert counts == {FASTMMD: {"forward": 7, "both": 7}, DENSE: {}}


def test_outcomes_of_checks_are_kept_with_the_rows(tmp_path, monkeypatch):
    def measure_nothing(report, part, cases, device, seconds, out):
        report.save(out)
        return True

    (tmp_path / "tests.txt").write_text("...\n=== 9 passed in 3.00s ===\n")
    monkeypatch.setattr(rows.environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(rows, "measure_part", measure_nothing)
    monkeypatch.setattr(rows.signal, "signal", lambda *_: None)
    assert rows.main(["main", "--out", str(tmp_path / "gpu.json"), "--seconds", "9"]) == 0
    assert Report.load(tmp_path / "gpu.json").checks == {"tests": "9 passed in 3.00s"}
