"""The parts of the benchmark that fill one record, on a CPU in a GPU's place."""

import pytest

from bench import rows, throughput
from bench.cases import CASES, main_rows
from bench.competitors import DENSE, FASTMMD, Competitor, line_up
from bench.report import NO_TIME, Report, Result
from tests.bench.test_gate import CPU

MAIN, OTHER = main_rows()[0], next(case for case in CASES if case not in main_rows() and case.quick)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    options = [{"7": "3", "0.25": "0.01", "1": "600"}.get(word, word) for word in rows.OPTIONS]
    monkeypatch.setattr(rows, "OPTIONS", tuple(options))


@pytest.fixture
def few(monkeypatch):
    """fastmmd and a dense version alone."""
    competitors = tuple(competitor for competitor in line_up() if competitor.name in (FASTMMD, DENSE))
    monkeypatch.setattr(throughput, "line_up", lambda backends: competitors)


def measure(report, part, out, seconds=60.0, cases=(MAIN, OTHER)):
    rows.measure(report, part, cases, CPU, seconds, out)
    return [result.case for result in Report.load(out).results if result.seconds]


@pytest.mark.usefixtures("few")
def test_main_rows_then_the_rest(tmp_path):
    out = tmp_path / "gpu.json"
    report = Report({"gpu": "a GPU"}, {}, [])
    assert measure(report, "main", out) == [MAIN.name] * 2
    assert measure(Report.load(out), "rest", out) == [MAIN.name] * 2 + [OTHER.name] * 2


@pytest.mark.usefixtures("few")
def test_main_rows_measured_again_are_replaced_and_others_stay(tmp_path):
    out = tmp_path / "gpu.json"
    report = Report({}, {}, [Result(MAIN.name, "old"), Result(OTHER.name, "kept")])
    measure(report, "main", out)
    found = [(result.case, result.competitor) for result in Report.load(out).results]
    assert found == [(OTHER.name, "kept"), (MAIN.name, FASTMMD), (MAIN.name, DENSE)]


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
    assert [(result.competitor, result.red) for result in report.results] == [("wrong", True), (FASTMMD, False)]


@pytest.mark.usefixtures("few")
def test_the_record_is_saved_after_every_case(tmp_path, monkeypatch):
    """What a kill costs is the case in progress."""
    out = tmp_path / "gpu.json"
    run, saved = throughput.run, []

    def noting(case, *arguments):
        saved.append({result.case for result in Report.load(out).results} if out.exists() else set())
        return run(case, *arguments)

    monkeypatch.setattr(throughput, "run", noting)
    measure(Report({}, {}, []), "rest", out)
    assert saved == [set(), {MAIN.name}]


@pytest.mark.usefixtures("few")
def test_launches_of_what_fastmmd_has_measured(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(throughput.measure, "launches", lambda action: action() is None or 7)
    report = Report({}, {}, [])
    measure(report, "main", out)
    measure(report, "launches", out)
    counts = {result.competitor: result.launches for result in Report.load(out).results}
    assert counts == {FASTMMD: {"forward": 7, "both": 7}, DENSE: {}}


def test_outcomes_of_checks_are_kept_with_the_rows(tmp_path, monkeypatch):
    (tmp_path / "tests.txt").write_text("...\n=== 9 passed in 3.00s ===\n")
    monkeypatch.setattr(rows.environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(rows, "measure", lambda report, part, cases, device, seconds, out: report.save(out))
    assert rows.main(["main", "--out", str(tmp_path / "gpu.json"), "--seconds", "9"]) == 0
    assert Report.load(tmp_path / "gpu.json").checks == {"tests": "9 passed in 3.00s"}
