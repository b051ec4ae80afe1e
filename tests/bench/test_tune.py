"""Tuning without a GPU: what would be tried, and what is printed. Checks and times are made up."""

import math
import random
import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("fastmmd.kernels.table", reason="needs Triton")

from bench import candidates, tune
from bench.candidates import RAGGED
from fastmmd.backends import triton
from fastmmd.kernels import blocks, small, table, tiles
from tests.bench.test_gate import CPU

JOBS = list(candidates.jobs("nvidia"))


def made_up(case, lines, device, seconds_each):
    """Fewer warps and larger tiles are faster."""
    return {key: [1e-6 * line.config.warps / line.config.tile] * 3 for key, line in lines.items()}


def search(job, check=lambda case, line, device: None, clock=made_up, seconds=60.0):
    return tune.search(job, CPU, time.monotonic() + seconds, random.Random(0), check, clock)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_candidates_of_a_line(job):
    assert len(set(job.candidates)) == len(job.candidates)
    assert job.line.config not in job.candidates
    assert {type(config) for config in job.candidates} == {type(job.line.config)}
    for case in job.cases:
        assert len(case.dims) <= job.line.layers
        assert case.precision in job.line.formats
        assert candidates.ragged(case).n == sum(RAGGED)


def test_every_line_and_every_format_of_tiles_has_a_job():
    lines = [line for line in table.TABLE if line.vendor == "nvidia"]
    of_tiles = [job.line.formats for job in JOBS if isinstance(job.line.config, tiles.Config)]
    assert of_tiles == [("bf16",), ("tf32",), ("tf32x3",)]
    assert len(JOBS) == len(lines) + 2
    spaces = {type(job.line.config): job.candidates for job in JOBS}
    assert {(c.tile, c.chunk, c.stages) for c in spaces[small.Config]} >= {(16, 32, 1), (64, 128, 3)}
    assert {c.workspace_bytes for c in spaces[blocks.Config]} == {mib << 20 for mib in (16, 32, 64, 128, 256)}


def test_sweeps_have_a_line_for_each_route():
    for sweep in candidates.sweeps():
        for route in sweep.routes:
            assert isinstance(tune._fitting([], route, sweep.case).config, route)
        for n in sweep.rows:
            case = candidates.of_rows(sweep.case, n)
            assert case.n == n
            assert case.n_source % case.copies == 0


def test_the_fastest_right_candidate_is_proposed():
    job = JOBS[0]

    def check(case, line, device):
        return (
            "wrong" if line.config.tile == 64 else "OutOfResources: shared memory" if line.config.stages == 3 else None
        )

    found = search(job, check)
    assert set(found.dropped.values()) == {"wrong", "OutOfResources: shared memory"}
    assert found.untried == 0
    line = tune.proposal(job, found, "a GPU")
    assert (line.config.tile, line.config.warps) == (32, 4)
    assert found.ratio[tune.name(line.config)] == pytest.approx(0.5)
    assert found.ratio[tune.name(job.line.config)] == pytest.approx(1)
    assert line.reason.startswith(f"a GPU: {job.cases[0].name} 0.125 us; ")
    assert line._replace(config=job.line.config, reason=job.line.reason) == job.line

    text = "\n".join(tune.listing(job, found))
    assert f"| {tune.name(job.line.config)} (present) | 0.2 |" in text
    assert "dropped: small.Config(tile=64" in text
    names = {"Line": table.Line, "ALL": table.ALL, "ANY": table.ANY, "small": small}
    assert eval(tune.source(line).strip().rstrip(","), names) == line


def test_an_equal_candidate_changes_nothing():
    job = JOBS[0]
    found = search(job, clock=lambda case, lines, device, seconds: {key: [1e-6] * 3 for key in lines})
    assert tune.proposal(job, found, "a GPU").config == job.line.config
    assert all(math.isclose(ratio, 1) for ratio in found.ratio.values())


def test_without_time_the_present_configuration_alone_is_measured():
    job = JOBS[0]
    found = search(job, seconds=0.0)
    assert list(found.ratio) == [tune.name(job.line.config)]
    assert found.untried == len(job.candidates)
    assert f"{len(job.candidates)} more were not tried" in "\n".join(tune.listing(job, found))


def test_if_nothing_works_the_line_stays():
    job = JOBS[0]._replace(candidates=JOBS[0].candidates[:3])
    found = search(job, check=lambda case, line, device: "CompilationError")
    assert len(found.dropped) == 4
    assert tune.proposal(job, found, "a GPU") == job.line


def test_crossing():
    (sweep, *_) = candidates.sweeps()
    seconds = {128: {"small": 1e-6, "blocks": 2e-6}, 256: {"small": 3e-6, "blocks": 2e-6}, 384: {"blocks": 1e-6}}
    text = "\n".join(tune.crossing(sweep, seconds))
    assert "| 256 | 3.0 | 2.0 | blocks |" in text
    assert "| 384 | failed | 1.0 | blocks |" in text
    assert "small is fastest at N = 128" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert tune.main(["--out", str(tmp_path / "tune.json")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not triton.interpreted(), reason="needs Triton's interpreter")
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_the_present_configurations_pass_the_check(job):
    case = candidates.of_rows(replace(job.cases[0], dims=tuple(min(d, 40) for d in job.cases[0].dims)), 80)
    assert tune.check_line(case, job.line, CPU) is None


@pytest.mark.skipif(not triton.interpreted(), reason="needs Triton's interpreter")
def test_a_wrong_configuration_and_a_failing_one_are_caught():
    (job,) = (job for job in JOBS if job.name == "tiles, bf16")
    case = candidates.of_rows(job.cases[0], 120)
    wrong = tiles.Config(tile=64, columns=128, warps=8, stages=2)  # more columns than a tile has: it visits none
    assert tune.check_line(case, job.line._replace(config=wrong), CPU).startswith("wrong at")
    failing = tiles.Config(tile=48, columns=16, warps=8, stages=2)
    assert "power" in tune.check_line(case, job.line._replace(config=failing), CPU)
