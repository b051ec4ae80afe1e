"""Tuning without a GPU: what would be tried, and what is printed. Checks and times are made up, but where kernels run
on the CPU: in Triton's interpreter, or in an extension that FASTMMD_TEST_EXTENSION names (tests/conftest.py)."""

import json
import math
import random
import time
from dataclasses import replace

import pytest
import torch

from bench import candidates, proposals, routes, tune
from bench.candidates import RAGGED
from bench.proposals import EAGER, GRAPH, Timings
from bench.routes import backend_of, route_of, source_of
from fastmmd import dispatch
from fastmmd.backends import cuda, triton
from fastmmd.backends.cuda import architecture, fused
from fastmmd.backends.launch_rules import Rule
from tests.bench.test_gate import CPU

pytest.importorskip("fastmmd._C", reason="the compiled extension says how wide layers are")

BACKENDS = routes.BACKENDS if triton.version() else ("cuda",)
JOBS = {job.name: job for job in candidates.jobs(BACKENDS)}
SMALL = JOBS["cuda small, d up to 512"]
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def skip_unless_on_cpu(backend):
    if reason := dispatch.unavailable(backend, CPU):
        pytest.skip(f"{backend}: {reason}")


def made_up(case, rules, device, seconds_each, how=None):
    """Large chunks and few features per part are fast."""
    return {name: [1e-6 * rule.config.part_features / rule.config.chunk] * 3 for name, rule in rules.items()}


def search(job, check=lambda case, rule, device: None, clock=made_up, seconds=600.0):
    return tune.search(job, CPU, time.monotonic() + seconds, random.Random(0), check, clock)


@each_job
def test_candidates_are_other_configs_of_the_rules_route_and_cases_fit_the_rule(job):
    assert job.name.startswith(f"{backend_of(job.rule.config)} {route_of(job.rule.config)}")
    assert len(set(job.candidates)) == len(job.candidates)
    assert job.rule.config not in job.candidates
    assert {type(config) for config in job.candidates} == {type(job.rule.config)}
    for case in job.cases:
        assert len(case.dims) <= job.rule.max_layers
        assert case.precision in job.rule.formats
        assert candidates.ragged(case).n == sum(RAGGED)
        if backend_of(job.rule.config) == "cuda" and job.rule.max_width is not None:
            assert sum(fused.padded_widths(case.dims)) <= job.rule.max_width


def test_every_cuda_rule_has_a_job_and_fused_one_per_format():
    jobs = [job for job in JOBS.values() if backend_of(job.rule.config) == "cuda"]
    assert len({job.name for job in jobs}) == len(jobs)
    formats = {format for job in jobs if "fused" in job.name for format in job.rule.formats}
    assert formats == set(fused.FORMATS)
    for config in (cuda.small.Config, cuda.gemm.Config):
        rules = [rule for rule in cuda.launch_rules.RULES if isinstance(rule.config, config)]
        assert [job.rule for job in jobs if isinstance(job.rule.config, config)] == rules
    spaces = {route_of(job.rule.config): {*job.candidates, job.rule.config} for job in jobs}
    assert {config.chunk for config in spaces["small"]} == {32, 64}  # what small.cu has kernels for
    assert {(config.thread_blocks, config.stages) for config in spaces["fused"]} >= {(132, 1), (1056, 2)}
    assert {config.workspace_bytes for config in spaces["gemm"]} == {mib << 20 for mib in (16, 24, 32, 64, 128)}


@pytest.mark.skipif(triton.version() is None, reason="needs Triton")
def test_every_triton_rule_has_a_job_and_fused_one_per_format():
    jobs = [job for job in JOBS.values() if backend_of(job.rule.config) == "triton"]
    not_fused = [rule for rule in candidates.rules_of("triton") if route_of(rule.config) != "fused"]
    assert [job.rule for job in jobs if "fused" not in job.name] == not_fused
    assert [job.rule.formats for job in jobs if "fused" in job.name] == [("bf16",), ("tf32",)]
    spaces = {route_of(job.rule.config): {*job.candidates, job.rule.config} for job in jobs}
    assert {(c.tile, c.chunk, c.stages) for c in spaces["small"]} >= {(16, 32, 1), (64, 128, 3)}
    assert {c.workspace_bytes for c in spaces["gemm"]} == {mib << 20 for mib in (16, 24, 32, 64, 128)}


@pytest.mark.parametrize("job", list(candidates.short_jobs(BACKENDS)), ids=lambda job: job.name)
def test_short_lists_hold_few_other_configs_of_one_route(job):
    assert 1 < len(job.candidates) <= 5
    assert job.rule.config not in job.candidates
    assert {route_of(config) for config in job.candidates} == {route_of(job.rule.config)}
    assert job.rule.formats == (job.cases[0].precision,)
    assert all(len(case.dims) <= job.rule.max_layers for case in job.cases)


def test_short_lists_are_tried_in_their_order():
    (job,) = [job for job in candidates.short_jobs(("cuda",)) if job.name == "cuda small, few features"]
    tried = []
    tune.search(job, CPU, time.monotonic() + 600, None, lambda case, rule, device: tried.append(rule.config), made_up)
    assert list(dict.fromkeys(tried)) == [job.rule.config, *job.candidates]


def test_short_sweeps_are_fewer():
    rows = [sum(len(sweep.rows) for sweep in sweeps) for sweeps in (candidates.short_sweeps(), candidates.sweeps())]
    assert rows[0] < rows[1] / 3
    assert {route for sweep in candidates.short_sweeps() for route in sweep.routes} == set(routes.ROUTES)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sweeps_have_a_rule_for_each_route(backend):
    for sweep in (*candidates.sweeps(), *candidates.short_sweeps()):
        for route in sweep.routes:
            assert route_of(candidates.rule_for(backend, route, sweep.case).config) == route
        for n in sweep.rows:
            case = candidates.of_rows(sweep.case, n)
            assert case.n == n
            assert case.n_source % case.copies == 0


def test_a_proposed_rule_comes_first_where_the_case_fits_it():
    case = SMALL.cases[0]
    proposed = replace(SMALL.rule, config=cuda.small.Config(part_features=96, chunk=64))
    assert candidates.rule_for("cuda", "small", case) == SMALL.rule
    assert candidates.rule_for("cuda", "small", case, [proposed]) == proposed
    assert candidates.rule_for("cuda", "small", replace(case, dims=(2048,)), [proposed]).max_width >= 2048
    assert candidates.rule_for("cuda", "small", replace(case, dims=(40_000,)), [proposed]) is None


def test_the_fastest_right_candidate_is_proposed():
    def check(case, rule, device):
        return {32: "wrong", 512: "OutOfMemoryError: too much"}.get(rule.config.part_features)

    timings = search(SMALL, check)
    assert set(timings.dropped.values()) == {"wrong", "OutOfMemoryError: too much"}
    assert timings.untried == 0
    rule = proposals.proposal(SMALL, timings, "a GPU")
    assert rule.config == cuda.small.Config(part_features=64, chunk=64)
    assert timings.ratio[source_of(rule.config)] == pytest.approx(0.5)
    assert timings.ratio[source_of(SMALL.rule.config)] == pytest.approx(1)
    assert rule.reason.startswith(f"a GPU: {SMALL.cases[0].name} 1 us; ")
    assert replace(rule, config=SMALL.rule.config, reason=SMALL.rule.reason) == SMALL.rule

    text = "\n".join(proposals.listing(timings))
    assert "| small.Config(part_features=64, chunk=32, overlap=True) (present) | 2.0 |" in text
    assert "dropped: small.Config(part_features=32" in text


@each_job
def test_a_printed_rule_is_the_rule_in_its_launch_rules(job):
    """Evaluated where the launch rules stand."""
    assert eval(proposals.source(job.rule).strip().rstrip(","), vars(launch_rules_of(job.rule))) == job.rule


def launch_rules_of(rule):
    if backend_of(rule.config) == "cuda":
        return cuda.launch_rules
    from fastmmd.kernels import launch_rules

    return launch_rules


def test_a_printed_rule_names_what_differs_from_the_defaults_alone():
    rule = Rule(config=cuda.gemm.Config(workspace_bytes=7), formats=("ieee",), max_rows=256, reason='as "before"')
    assert proposals.source(rule).splitlines() == [
        "    Rule(",
        "        config=gemm.Config(workspace_bytes=7),",
        '        formats=("ieee",),',
        "        max_rows=256,",
        '        reason="as \\"before\\"",',
        "    ),",
    ]
    amd = replace(rule, vendor="amd", formats=("ieee", "bf16"), max_rows=None)
    assert '        formats=("ieee", "bf16"),\n        vendor="amd",\n        reason=' in proposals.source(amd)


def test_candidates_of_equal_speed_change_nothing():
    timings = search(SMALL, clock=lambda case, rules, device, seconds: {name: [1e-6] * 3 for name in rules})
    assert proposals.proposal(SMALL, timings, "a GPU").config == SMALL.rule.config
    assert all(math.isclose(ratio, 1) for ratio in timings.ratio.values())


def test_without_time_the_present_config_alone_is_measured():
    timings = search(SMALL, seconds=0.0)
    assert list(timings.ratio) == [source_of(SMALL.rule.config)]
    assert timings.untried == len(SMALL.candidates)
    assert f"{len(SMALL.candidates)} more were not tried" in "\n".join(proposals.listing(timings))


def test_if_nothing_works_the_rule_stays():
    job = SMALL._replace(candidates=SMALL.candidates[:3])
    timings = search(job, check=lambda case, rule, device: "error 9: invalid argument")
    assert len(timings.dropped) == 4
    assert proposals.proposal(job, timings, "a GPU") == job.rule


def test_routes_take_turns_eager_and_in_graphs():
    def clock(case, rules, device, seconds_each, how):
        factor = {"cuda": 1, "triton": 3 if how == EAGER else 0.9}
        return {name: [1e-6 * factor[name.split()[0]] * case.n] * 3 for name in rules}

    def check(case, rule, device):
        return "wrong" if case.n == 256 and route_of(rule.config) == "small" else None

    sweep = candidates.sweeps()[0]._replace(rows=(128, 256, 8192))
    seconds = tune.compare(sweep, BACKENDS, [], CPU, check, clock)
    assert {n: set(ways) for n, ways in seconds.items()} == {128: {EAGER, GRAPH}, 256: {EAGER, GRAPH}, 8192: {EAGER}}
    assert set(seconds[128][EAGER]) == {f"{backend} {route}" for backend in BACKENDS for route in ("small", "gemm")}
    assert set(seconds[256][EAGER]) == {f"{backend} gemm" for backend in BACKENDS}


def test_the_fastest_route_is_named_for_every_size_of_all_and_of_its_backend():
    graph = {"cuda small": 1e-6, "cuda gemm": 2e-6, "triton small": 0.9e-6}
    seconds = {
        128: {EAGER: {"cuda small": 3e-6, "cuda gemm": 9e-6, "triton small": 8e-6}, GRAPH: graph},
        256: {EAGER: {"cuda gemm": 2e-6, "triton small": 1e-6}},
    }
    text = "\n".join(proposals.crossing(proposals.title(candidates.sweeps()[0]), seconds))
    assert "## small or gemm: d 256 x 8, ieee" in text
    assert "| N | cuda small, us | cuda gemm, us | triton small, us |" in text
    assert "| 128, in a CUDA graph | 1.0 | 2.0 | 0.9 |" in text
    assert "| 256, eager | failed | 2.0 | 1.0 |" in text
    assert "* fastest eager: cuda small at N = 128; triton small at N = 256" in text
    assert "* fastest eager of cuda: cuda small at N = 128; cuda gemm at N = 256" in text
    assert "* fastest in a CUDA graph: triton small at N = 128\n" in text


def test_a_sweep_in_which_nothing_worked_has_an_empty_table():
    assert list(proposals.crossing("none", {128: {EAGER: {}}})) == [
        "## none",
        "",
        "| N |  |",
        "| --- |",
        "| 128, eager |  |",
        "",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_tuned_and_the_reason_is_printed(tmp_path, capsys):
    assert tune.main(["--out", str(tmp_path / "tune.json")]) == 2
    assert "cannot tune cuda here: no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_backend_that_cannot_run_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(architecture, "shared_memory", lambda device: architecture.HOST_SHARED_MEMORY)
    monkeypatch.setattr(dispatch, "unavailable", lambda name, device: {"triton": "no such thing"}.get(name))
    monkeypatch.setattr(tune.environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(tune, "search", lambda job, *_: Timings(job.name, source_of(job.rule.config)))
    compared = []

    def compare(sweep, backends, proposed, device):
        compared.append(backends)
        return {}

    monkeypatch.setattr(tune, "compare", compare)
    assert tune.main(["--out", str(tmp_path / "tune.json"), "--only", "cuda"]) == 0
    printed = capsys.readouterr()
    assert "cannot tune triton here: no such thing" in printed.err
    assert printed.out.count("    Rule(\n") == sum(name.startswith("cuda") for name in JOBS)
    assert "# fastmmd/backends/cuda/launch_rules.py\n    Rule(" in printed.out
    assert not compared
    assert tune.main(["--out", str(tmp_path / "tune.json")]) == 0
    assert compared == [["cuda"]] * len(candidates.sweeps())
    compared.clear()
    assert tune.main(["--out", str(tmp_path / "tune.json"), "--short", "--seconds", "600"]) == 0
    assert compared == [["cuda"]] * len(candidates.short_sweeps())
    record = json.loads((tmp_path / "tune.json").read_text())
    assert [job["job"] for job in record["jobs"]] == [job.name for job in candidates.short_jobs(("cuda",))]
    presents = [source_of(job.rule.config) for job in candidates.short_jobs(("cuda",))]
    assert [Timings(**job).present for job in record["jobs"]] == presents


# Where kernels run on the CPU ----------------------------------------------------------------------------------------


def tiny(job):
    """The job's first case with few rows and features."""
    case = job.cases[0]
    return candidates.of_rows(replace(case, dims=tuple(min(d, 40) for d in case.dims)), 80)


@each_job
def test_present_configs_pass_the_check(job):
    skip_unless_on_cpu(backend_of(job.rule.config))
    assert tune.check_rule(tiny(job), job.rule, CPU) is None


@pytest.mark.parametrize(
    "job", [job for name, job in JOBS.items() if name.startswith("cuda")], ids=lambda job: job.name
)
@pytest.mark.parametrize("position", [0, -1], ids=["first", "last"])
def test_cuda_candidates_pass_the_check(job, position):
    skip_unless_on_cpu("cuda")
    assert tune.check_rule(tiny(job), replace(job.rule, config=job.candidates[position]), CPU) is None


def test_a_failing_cuda_config_is_dropped():
    skip_unless_on_cpu("cuda")
    job = JOBS["cuda fused, tf32x3"]
    none = replace(job.rule, config=cuda.fused.Config(thread_blocks=1, stages=3))
    assert tune.check_rule(tiny(job), none, CPU).startswith("ValueError")


def test_a_wrong_cuda_result_is_dropped(monkeypatch):
    """bf16 where two digits of TF32 were asked for."""
    skip_unless_on_cpu("cuda")
    job = JOBS["cuda fused, tf32x3"]
    assert tune.check_rule(tiny(job), job.rule, CPU) is None
    monkeypatch.setattr(cuda.launch_rules, "product_format", lambda *_: "bf16")
    assert tune.check_rule(tiny(job), job.rule, CPU).startswith("wrong at 40+40, 40 x 8, tf32x3")


@pytest.mark.skipif(not triton.interpreted(), reason="needs Triton's interpreter")
def test_a_wrong_triton_result_and_a_failing_config_are_dropped(monkeypatch):
    from fastmmd.kernels import fused, launch_rules

    job = JOBS["triton fused, tf32x3"]
    failing = replace(job.rule, config=fused.Config(tile=48, columns=16, warps=8, stages=2))
    assert "power" in tune.check_rule(tiny(job), failing, CPU)
    monkeypatch.setattr(launch_rules, "product_format", lambda *_: "bf16")
    assert tune.check_rule(tiny(job), job.rule, CPU).startswith("wrong at 40+40, 40 x 8, tf32x3")
