import json

import pytest

from bench import throughput
from bench.cases import Case, Targets
from bench.competitors import BLOCKED, COMPILED, DENSE, FASTMMD, NAIVE, Competitor, line_up
from bench.gate import Errors
from bench.measure import PHASES, Spread
from bench.report import Report, Result, markdown

CASE = Case("tiny", 4, 4, (3,), (), targets=Targets(naive=25, share=0.5, extra_mib=4))


@pytest.fixture
def report():
    spread = Spread(0.001, 0.002, 0.004)
    ours = Result(
        "tiny",
        FASTMMD,
        errors=Errors(1e-8, 2e-7),
        allowed=Errors(1e-6, 2e-6),
        seconds=dict.fromkeys(PHASES, spread),
        rounds=5,
        extra_bytes=2**20,
        speedup={NAIVE: Spread(30, 31, 32)},
        share=Spread(0.6, 0.7, 0.8),
        overhead=spread,
    )
    wrong = Result("tiny", NAIVE, errors=Errors(0.5, 0.1), allowed=Errors(1e-6, 2e-6))
    environment = {"gpu": None, "cpu": "a CPU", "threads": 2, "cpu_variant": "avx2", "revision": "0123456789abcdef"}
    environment |= {"dirty": True, "torch": "2.6", "fastmmd": "0.1", "date": "2026-01-01T00:00:00"}
    return Report(environment, {"rounds": 5}, [ours, wrong, Result("tiny", DENSE, "dense form needs 44 GiB")])


def test_round_trip(report, tmp_path):
    report.save(tmp_path / "new" / "record.json")
    assert Report.load(tmp_path / "new" / "record.json") == report


def test_table_states_targets_reasons_and_no_time_of_a_wrong_loss(report):
    table = markdown(report, {"tiny": CASE})
    assert "31 [30 - 32] (>= 25)" in table
    assert "0.70 [0.60 - 0.80] (>= 0.5)" in table
    assert "1.00 MiB (< 4)" in table
    assert "0123456789 + changes" in table
    assert "* Gram dense: dense form needs 44 GiB" in table
    (wrong,) = [line for line in table.splitlines() if line.startswith("| tiny | naive broadcast")]
    assert "**wrong" in wrong
    assert " ms" not in wrong


def test_quick_run_writes_all_files(tmp_path, monkeypatch, capsys):
    small = tuple(c for c in line_up() if c.name != COMPILED)  # compiling takes longer than this file's tests
    monkeypatch.setattr(throughput, "line_up", lambda backends: small)
    out = tmp_path / "run.json"
    assert throughput.main(["--quick", "--cases", "36+36", "--rounds", "3", "--seconds", "0.2", "--out", str(out)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "run.md", "run-speedup.png"}
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    by_name = {result.competitor: result for result in Report.load(out).results}
    assert set(by_name[FASTMMD].seconds) == set(PHASES)
    assert {NAIVE, DENSE, BLOCKED} <= set(by_name[FASTMMD].speedup)
    environment = json.loads(out.read_text())["environment"]
    assert {"torch", "python", "fastmmd", "cpu", "threads", "cpu_variant", "revision", "dirty", "date"} <= set(
        environment
    )


def test_published_results_are_only_written_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "ROOT", tmp_path)
    monkeypatch.setattr(throughput, "line_up", lambda backends: line_up()[:1])
    assert throughput.main(["--quick", "--cases", "36+36", "--rounds", "3", "--seconds", "0.1"]) == 0
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"runs/bench/cpu.json", "runs/bench/cpu.md", "runs/bench/cpu-speedup.png"}


def test_a_wrong_competitor_fails_the_run_and_is_not_timed(tmp_path, monkeypatch, capsys):
    def make(case):
        return lambda sources, targets: sum(x.sum() for x in (*sources, *targets))

    monkeypatch.setattr(throughput, "line_up", lambda backends: (Competitor("wrong", make),))
    out = tmp_path / "run.json"
    assert throughput.main(["--quick", "--cases", "36+36", "--out", str(out)]) == 1
    (result,) = Report.load(out).results
    assert result.red
    assert not result.seconds
    assert "**wrong" in capsys.readouterr().out
