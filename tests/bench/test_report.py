import json
import sys
from pathlib import Path

import pytest
import torch

from bench import throughput
from bench.cases import CASES, Case, Targets, main_rows
from bench.competitors import BLOCKED, COMPILED, DENSE, FASTMMD, NAIVE, Competitor, line_up
from bench.gate import Errors
from bench.measure import PHASES, Spread
from bench.record import Report, Result, StepShare
from bench.report import markdown

CASE = Case("tiny", 4, 4, (3,), (), targets=Targets(naive=25, share=0.5, extra_mib=4), gpu_targets=Targets(graph_us=15))


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


def test_saved_record_is_loaded_unchanged(report, tmp_path):
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


@pytest.fixture
def of_a_gpu(report):
    report.environment |= {
        "gpu": "A GPU",
        "driver": "580.1",
        "triton": "3.6.0",
        "cuda_kernels": "90 90+PTX by nvcc 13.0",
    }
    report.checks = {"tests": "passed: 3 passed"}
    ours = report.results[0]
    ours.graph, ours.launches = Spread(11e-6, 12e-6, 13e-6), {"forward": 2, "both": 7}
    ours.backend = "cuda"
    report.training = [
        StepShare("fp32", FASTMMD, None, Spread(0.03, 0.031, 0.033), Spread(0.001, 0.002, 0.003)),
        StepShare("fp32", NAIVE, "out of memory"),
    ]
    return report


def test_saved_record_of_a_gpu_is_loaded_unchanged(of_a_gpu, tmp_path):
    of_a_gpu.save(tmp_path / "record.json")
    assert Report.load(tmp_path / "record.json") == of_a_gpu


def test_a_record_is_resumed_in_the_same_environment_only(of_a_gpu, tmp_path, capsys):
    path = tmp_path / "record.json"
    environment = of_a_gpu.environment
    assert Report.resume(path, environment) == Report(environment, {}, [])
    of_a_gpu.save(path)
    assert Report.resume(path, environment | {"date": "2030-01-01T00:00:00"}) == of_a_gpu
    assert not capsys.readouterr().out
    other = environment | {"revision": "fedcba"}
    assert Report.resume(path, other) == Report(other, {}, [])
    assert "another environment" in capsys.readouterr().out


def test_table_of_a_gpu_has_its_columns_and_targets(of_a_gpu):
    table = markdown(of_a_gpu, {"tiny": CASE})
    assert "A GPU, driver 580.1, Triton 3.6.0, CUDA kernels for 90 90+PTX by nvcc 13.0; torch" in table
    assert "* tests: passed: 3 passed" in table
    assert "| tiny | fastmmd (cuda) | 2 [1 - 4] ms | 12 [11 - 13] us (< 15) | 2 | 7 |" in table
    assert "| fp32 | fastmmd | 31 [30 - 33] ms | 0.2 [0.1 - 0.3] |" in table
    assert "| fp32 | naive broadcast | out of memory | - |" in table
    assert "(>= 25)" not in table  # a target on CPUs
    assert "KeOps" not in table


def test_records_of_earlier_versions_load():
    report = Report.load(Path(throughput.ROOT) / "bench" / "results" / "cpu.json")
    table = markdown(report, report.cases())
    assert "## In a CUDA graph" not in table
    assert "## Share of a training step" not in table


def test_cpus_measure_fp32_alone_and_gpus_all_cases_main_rows_first():
    cpu, gpu = (throughput.select(torch.device(name)) for name in ("cpu", "cuda"))
    assert not any(case.gpu or case.precision != "ieee" for case in cpu)
    assert set(gpu) == set(CASES)
    assert len({case.name for case in CASES}) == len(CASES)
    main = main_rows()
    assert tuple(gpu[: len(main)]) == main
    assert [(case.n, case.dims) for case in main[:3]] == [(72, (256, 31)), (128, (2048, 8)), (256, (256, 10))]
    with_targets = [case.gpu_targets != Case.gpu_targets for case in gpu[len(main) :]]
    assert with_targets == sorted(with_targets, reverse=True)  # then those whose targets are not the common ones
    assert any(case.n == 131072 and case.dims == (256, 8) for case in gpu)
    assert any(case.n == 8192 and case.dims == (2048,) for case in gpu)


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
    assert result.wrong
    assert not result.seconds
    assert "**wrong" in capsys.readouterr().out


def test_a_competitor_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def make(case):
        raise MemoryError("too much\nand more")

    monkeypatch.setattr(throughput, "line_up", lambda backends: (Competitor("broken", make), line_up()[0]))
    out = tmp_path / "run.json"
    arguments = ["--quick", "--cases", "36+36", "--rounds", "3", "--seconds", "0.1", "--out", str(out)]
    assert throughput.main(arguments) == 1
    broken, ours = Report.load(out).results
    assert broken.failed
    assert broken.skipped == "failed: MemoryError: too much"
    assert ours.seconds


def test_who_takes_too_long_for_one_step_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "line_up", lambda backends: line_up()[:1])
    out = tmp_path / "run.json"
    assert throughput.main(["--quick", "--cases", "36+36", "--longest-step", "0", "--out", str(out)]) == 0
    (result,) = Report.load(out).results
    assert result.skipped.startswith("a step takes ")
    assert not result.seconds


def test_when_time_is_up_no_case_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "line_up", lambda backends: line_up()[:1])
    out = tmp_path / "run.json"
    assert throughput.main(["--quick", "--minutes", "0", "--out", str(out)]) == 0
    assert "* fastmmd: no time left" in capsys.readouterr().out


def test_without_matplotlib_there_are_no_plots(tmp_path, monkeypatch, capsys):
    for module in ("bench.plots", "matplotlib.axes", "matplotlib.figure", "matplotlib"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr("bench.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(throughput, "line_up", lambda backends: line_up()[:1])
    out = tmp_path / "run.json"
    arguments = ["--quick", "--cases", "36+36", "--rounds", "3", "--seconds", "0.1", "--out", str(out)]
    assert throughput.main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "run.md"}
    errors = capsys.readouterr().err
    assert "no plots without matplotlib" in errors
    assert "later: python -m bench.plots run.json" in errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(capsys):
    with pytest.raises(SystemExit):
        throughput.main(["--device", "cuda"])
    assert "torch finds no CUDA device" in capsys.readouterr().err
