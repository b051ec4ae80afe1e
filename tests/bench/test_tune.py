"""Tuning without a GPU: what would be tried, and what is printed. Checks and times are made up, but where kernels run
on the CPU: in Triton's interpreter, or in an extension that FASTMMD_TEST_EXTENSION names (tests/conftest.py)."""

import json
import math
import random
import time
from dataclasses import replace

import pytest
import torch

from bench import candidates, tune
from bench.candidates import RAGGED, backend_of, kind, name, table_of
from fastmmd import dispatch
from fastmmd.backends import cuda, triton
from tests.bench.test_gate import CPU

BACKENDS = candidates.BACKENDS if triton.version() else ("cuda",)
JOBS = {job.name: job for job in candidates.jobs(BACKENDS)}
SMALL = JOBS["cuda small, d up to 512"]
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def skip_unless_on_cpu(backend):
    if reason := dispatch.unavailable(backend, CPU):
        pytest.skip(f"{backend}: {reason}")


def made_up(case, lines, device, seconds_each, how=None):
    """Large chunks and few features a part are fast."""
    return {key: [1e-6 * line.config.part_features / line.config.chunk] * 3 for key, line in lines.items()}


def search(job, check=lambda case, line, device: None, clock=made_up, seconds=60.0):
    return tune.search(job, CPU, time.monotonic() + seconds, random.Random(0), check, clock)


@each_job
def test_candidates_of_a_line(job):
    assert job.name.startswith(f"{backend_of(job.line)} {kind(job.line.config)}")
    assert len(set(job.candidates)) == len(job.candidates)
    assert job.line.config not in job.candidates
    assert {type(config) for config in job.candidates} == {type(job.line.config)}
    for case in job.cases:
        assert len(case.dims) <= job.line.layers
        assert case.precision in job.line.formats
        assert candidates.ragged(case).n == sum(RAGGED)
        if backend_of(job.line) == "cuda":
            assert sum(-(-d // 16) for d in case.dims) <= job.line.units


def test_jobs_of_the_cuda_table():
    own = [job for job in JOBS.values() if backend_of(job.line) == "cuda"]
    assert len({job.name for job in own}) == len(own)
    assert {format for job in own if "tiles" in job.name for format in job.line.formats} == {
        *("ieee", "tf32x3", "tf32", "bf16")
    }
    for route in (cuda.Small, cuda.Blocks):
        lines = [line for line in cuda.TABLE if isinstance(line.config, route)]
        assert [job.line for job in own if isinstance(job.line.config, route)] == lines
    spaces = {kind(job.line.config): {*job.candidates, job.line.config} for job in own}
    assert {config.chunk for config in spaces["small"]} == {32, 64}  # what small.cu has kernels for
    assert spaces["tiles"] >= {cuda.Tiles(132, 1), cuda.Tiles(1056, 2)}
    assert {config.workspace_bytes for config in spaces["blocks"]} == {mib << 20 for mib in (16, 32, 64, 128, 256)}


@pytest.mark.skipif(triton.version() is None, reason="needs Triton")
def test_jobs_of_tritons_table():
    own = [job for job in JOBS.values() if backend_of(job.line) == "triton"]
    assert len(own) == sum(line.vendor == "nvidia" for line in table_of("triton").TABLE) + 2
    assert [job.line.formats for job in own if "tiles" in job.name] == [("bf16",), ("tf32",), ("tf32x3",)]
    spaces = {kind(job.line.config): job.candidates for job in own}
    assert {(c.tile, c.chunk, c.stages) for c in spaces["small"]} >= {(16, 32, 1), (64, 128, 3)}
    assert {c.workspace_bytes for c in spaces["blocks"]} == {mib << 20 for mib in (16, 32, 64, 128, 256)}


@pytest.mark.parametrize("job", list(candidates.short_jobs(BACKENDS)), ids=lambda job: job.name)
def test_short_lists_hold_few_other_configurations_of_one_route(job):
    assert 1 < len(job.candidates) <= 5
    assert job.line.config not in job.candidates
    assert {kind(config) for config in job.candidates} == {kind(job.line.config)}
    assert job.line.formats == (job.cases[0].precision,)
    assert all(len(case.dims) <= job.line.layers for case in job.cases)


def test_short_lists_are_tried_in_their_order():
    (job,) = [job for job in candidates.short_jobs(("cuda",)) if job.name == "cuda small, few features"]
    tried = []
    tune.search(job, CPU, time.monotonic() + 60, None, lambda case, line, device: tried.append(line.config), made_up)
    assert list(dict.fromkeys(tried)) == [job.line.config, *job.candidates]


def test_short_sweeps_are_fewer():
    rows = [sum(len(sweep.rows) for sweep in sweeps) for sweeps in (candidates.short_sweeps(), candidates.sweeps())]
    assert rows[0] < rows[1] / 3
    assert {route for sweep in candidates.short_sweeps() for route in sweep.kinds} == {"small", "tiles", "blocks"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_sweeps_have_a_line_for_each_route(backend):
    for sweep in (*candidates.sweeps(), *candidates.short_sweeps()):
        for route in sweep.kinds:
            assert kind(candidates.line_for(backend, route, sweep.case).config) == route
        for n in sweep.rows:
            case = candidates.of_rows(sweep.case, n)
            assert case.n == n
            assert case.n_source % case.copies == 0


def test_a_proposed_line_comes_first():
    case = SMALL.cases[0]
    proposed = SMALL.line._replace(config=cuda.Small(96, 64))
    assert candidates.line_for("cuda", "small", case) == SMALL.line
    assert candidates.line_for("cuda", "small", case, [proposed]) == proposed
    assert candidates.line_for("cuda", "small", replace(case, dims=(2048,)), [proposed]).units >= 128
    assert candidates.line_for("cuda", "tiles", replace(case, dims=(512,)), [proposed]) is None


def test_the_fastest_right_candidate_is_proposed():
    def check(case, line, device):
        features = line.config.part_features
        return "wrong" if features == 32 else "OutOfMemoryError: too much" if features == 512 else None

    found = search(SMALL, check)
    assert set(found.dropped.values()) == {"wrong", "OutOfMemoryError: too much"}
    assert found.untried == 0
    line = tune.proposal(SMALL, found, "a GPU")
    assert line.config == cuda.Small(part_features=64, chunk=64)
    assert found.ratio[name(line.config)] == pytest.approx(0.5)
    assert found.ratio[name(SMALL.line.config)] == pytest.approx(1)
    assert line.reason.startswith(f"a GPU: {SMALL.cases[0].name} 1 us; ")
    assert line._replace(config=SMALL.line.config, reason=SMALL.line.reason) == SMALL.line

    text = "\n".join(tune.listing(found))
    assert "| Small(part_features=64, chunk=32) (present) | 2.0 |" in text
    assert "dropped: Small(part_features=32" in text


@each_job
def test_a_line_is_printed_as_it_is_written(job):
    text = tune.source(job.line)
    assert f"        {name(job.line.config)},\n" in text
    assert eval(text.strip().rstrip(","), vars(table_of(backend_of(job.line)))) == job.line


def test_an_equal_candidate_changes_nothing():
    found = search(SMALL, clock=lambda case, lines, device, seconds: {key: [1e-6] * 3 for key in lines})
    assert tune.proposal(SMALL, found, "a GPU").config == SMALL.line.config
    assert all(math.isclose(ratio, 1) for ratio in found.ratio.values())


def test_without_time_the_present_configuration_alone_is_measured():
    found = search(SMALL, seconds=0.0)
    assert list(found.ratio) == [name(SMALL.line.config)]
    assert found.untried == len(SMALL.candidates)
    assert f"{len(SMALL.candidates)} more were not tried" in "\n".join(tune.listing(found))


def test_if_nothing_works_the_line_stays():
    job = SMALL._replace(candidates=SMALL.candidates[:3])
    found = search(job, check=lambda case, line, device: "error 9: invalid argument")
    assert len(found.dropped) == 4
    assert tune.proposal(job, found, "a GPU") == job.line


def test_routes_take_turns_eager_and_in_graphs():
    def clock(case, lines, device, seconds_each, how):
        factor = {"cuda": 1, "triton": 3 if how == tune.EAGER else 0.9}
        return {key: [1e-6 * factor[key.split()[0]] * case.n] * 3 for key in lines}

    def check(case, line, device):
        return "wrong" if case.n == 256 and kind(line.config) == "small" else None

    (sweep, *_) = candidates.sweeps()
    sweep = sweep._replace(rows=(128, 256, 8192))
    seconds = tune.compare(sweep, BACKENDS, [], CPU, check, clock)
    assert {n: set(of) for n, of in seconds.items()} == {
        128: {tune.EAGER, tune.GRAPH},
        256: {tune.EAGER, tune.GRAPH},
        8192: {tune.EAGER},
    }
    assert set(seconds[128][tune.EAGER]) == {f"{b} {route}" for b in BACKENDS for route in ("small", "blocks")}
    assert set(seconds[256][tune.EAGER]) == {f"{b} blocks" for b in BACKENDS}


def test_crossing():
    (sweep, *_) = candidates.sweeps()
    graph = {"cuda small": 1e-6, "cuda blocks": 2e-6, "triton small": 0.9e-6}
    seconds = {
        128: {tune.EAGER: {"cuda small": 3e-6, "cuda blocks": 9e-6, "triton small": 8e-6}, tune.GRAPH: graph},
        256: {tune.EAGER: {"cuda blocks": 2e-6, "triton small": 1e-6}},
    }
    text = "\n".join(tune.crossing(tune.title(sweep), seconds))
    assert "## small or blocks: d 256 x 8, ieee" in text
    assert "| N | cuda small, us | cuda blocks, us | triton small, us |" in text
    assert "| 128, in a CUDA graph | 1.0 | 2.0 | 0.9 |" in text
    assert "| 256, eager | failed | 2.0 | 1.0 |" in text
    assert "* fastest eager: cuda small at N = 128; triton small at N = 256" in text
    assert "* fastest eager of cuda: cuda small at N = 128; cuda blocks at N = 256" in text
    assert "* fastest in a CUDA graph: triton small at N = 128\n" in text
    assert list(tune.crossing("none", {128: {tune.EAGER: {}}}))  # nothing worked


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert tune.main(["--out", str(tmp_path / "tune.json")]) == 2
    assert "cannot tune cuda here: no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_backend_that_cannot_run_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(candidates.compiled, "module", None)  # nobody asks the device what fits
    monkeypatch.setattr(dispatch, "unavailable", lambda name, device: "no such thing" if name == "triton" else None)
    monkeypatch.setattr(tune.environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(tune, "search", lambda job, *_: tune.Found(job.name, name(job.line.config)))
    asked = []
    monkeypatch.setattr(tune, "compare", lambda sweep, backends, *_: asked.append(backends) or {})
    assert tune.main(["--out", str(tmp_path / "tune.json"), "--only", "cuda"]) == 0
    said = capsys.readouterr()
    assert "cannot tune triton here: no such thing" in said.err
    assert said.out.count("    Line(\n") == sum(name.startswith("cuda") for name in JOBS)
    assert "# fastmmd/backends/cuda.py\n    Line(" in said.out
    assert not asked
    assert tune.main(["--out", str(tmp_path / "tune.json")]) == 0
    assert asked == [["cuda"]] * len(candidates.sweeps())
    asked.clear()
    assert tune.main(["--out", str(tmp_path / "tune.json"), "--short", "--seconds", "60"]) == 0
    assert asked == [["cuda"]] * len(candidates.short_sweeps())
    record = json.loads((tmp_path / "tune.json").read_text())
    assert [job["job"] for job in record["jobs"]] == [job.name for job in candidates.short_jobs(("cuda",))]
    assert [tune.Found(**job).present for job in record["jobs"]]


# Where kernels run on the CPU ----------------------------------------------------------------------------------------


@each_job
def test_the_present_configurations_pass_the_check(job):
    skip_unless_on_cpu(backend_of(job.line))
    case = candidates.of_rows(replace(job.cases[0], dims=tuple(min(d, 40) for d in job.cases[0].dims)), 80)
    assert tune.check_line(case, job.line, CPU) is None


@each_job
def test_a_few_cuda_candidates_pass_the_check(job):
    if backend_of(job.line) == "triton":
        pytest.skip("its interpreter takes too long")
    skip_unless_on_cpu("cuda")
    case = candidates.of_rows(replace(job.cases[0], dims=tuple(min(d, 40) for d in job.cases[0].dims)), 80)
    for config in (job.candidates[0], job.candidates[-1]):
        assert tune.check_line(case, job.line._replace(config=config), CPU) is None


def test_a_failing_cuda_configuration_is_caught():
    skip_unless_on_cpu("cuda")
    job = JOBS["cuda blocks"]
    case = candidates.of_rows(job.cases[0], 80)
    none = job.line._replace(config=cuda.Blocks(workspace_bytes=0))
    assert tune.check_line(case, none, CPU).startswith("ZeroDivisionError")


def test_a_wrong_cuda_configuration_is_caught(monkeypatch):
    """bf16 where fp32 was asked for."""
    skip_unless_on_cpu("cuda")
    job = JOBS["cuda tiles, ieee"]
    case = candidates.of_rows(replace(job.cases[0], dims=(40, 8)), 80)
    assert tune.check_line(case, job.line, CPU) is None
    monkeypatch.setattr(cuda, "product_format", lambda *_: "bf16")
    assert tune.check_line(case, job.line, CPU).startswith("wrong at 40+40, 40 x 8, ieee")


@pytest.mark.skipif(not triton.interpreted(), reason="needs Triton's interpreter")
def test_a_wrong_triton_result_and_a_failing_configuration_are_caught(monkeypatch):
    from fastmmd.kernels import table, tiles

    job = JOBS["triton tiles, tf32x3"]
    case = candidates.of_rows(replace(job.cases[0], dims=(40, 8)), 80)
    failing = job.line._replace(config=tiles.Config(tile=48, columns=16, warps=8, stages=2))
    assert "power" in tune.check_line(case, failing, CPU)
    monkeypatch.setattr(table, "product_format", lambda *_: "bf16")
    assert tune.check_line(case, job.line, CPU).startswith("wrong at 40+40, 40 x 8, tf32x3")
