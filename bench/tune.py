"""Measures configs for the launch rules on the GPU at hand, and proposes rules.

    python -m bench.tune --seconds 600
    python -m bench.tune --only "cuda fused"    rules whose name contains this; names begin with the backend
    python -m bench.tune --short --seconds 80   the most promising alternatives alone, from short lists, in their order

The rules are `RULES` in fastmmd/backends/cuda/launch_rules.py and in kernels/launch_rules.py. A backend that can't run
here is left out.

Each candidate is compared with the fp64 reference at a ragged size and at the sizes that are timed; one that is wrong,
fails to compile or needs more than the GPU has is named and dropped. The rest are timed in turns, small ones in CUDA
graphs. Where time does not suffice for all, a random part is tried. Then the routes of all backends take turns over N:
what `AUTOMATIC` in fastmmd/dispatch.py and the rules' rows rest on. Nothing is changed: rules are copied by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench import candidates, environment, measure
from bench.calls import loss_of
from bench.candidates import Job, Sweep
from bench.cases import Case
from bench.gate import Gate
from bench.proposals import EAGER, GRAPH, Routes, Timings, crossing, listing, proposal, source, title
from bench.routes import BACKENDS, backend_of, source_of
from bench.throughput import GRAPH_ROWS, ROOT
from fastmmd import dispatch
from fastmmd.models.files import write_atomically

if TYPE_CHECKING:
    from bench.routes import AnyRule

CHECKING = 0.7  # part of a job's time for compiling and checking; the rest is for timing
ROUNDS = 7
FILES = {"cuda": "fastmmd/backends/cuda/launch_rules.py", "triton": "kernels/launch_rules.py"}

Check = Callable[[Case, "AnyRule", torch.device], "str | None"]
Clock = Callable[[Case, Mapping[str, "AnyRule"], torch.device, float], dict[str, list[float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device("cuda", 0)
    backends = []
    for backend in BACKENDS:
        reason = dispatch.unavailable(backend, device) if torch.cuda.is_available() else "no CUDA device"
        if reason is None:
            backends.append(backend)
        else:
            print(f"cannot tune {backend} here: {reason}", file=sys.stderr)
    if not backends:
        return 2
    end = time.monotonic() + options.seconds
    record: dict[str, Any] = {"environment": environment.describe(device), "jobs": [], "routes": []}
    gpu = record["environment"]["gpu"]
    jobs = candidates.short_jobs(backends) if options.short else candidates.jobs(backends)
    todo = [job for job in jobs if options.only in job.name]
    sweeps = [] if options.only else candidates.short_sweeps() if options.short else candidates.sweeps()
    order = None if options.short else random.Random(options.seed)
    rules: list[AnyRule] = []
    for position, job in enumerate(todo):
        share = (end - time.monotonic()) / (len(todo) - position + len(sweeps) / 2)
        try:
            timings = search(job, device, time.monotonic() + share, order)
        except Exception as error:  # of timing: the other jobs are still worth it
            present = source_of(job.rule.config)
            timings = Timings(job.name, present, dropped={present: f"{type(error).__name__}: {str(error)[:160]}"})
        rules.append(proposal(job, timings, gpu))
        record["jobs"].append(vars(timings))
        _save(record, options.out)
        print("\n".join([*listing(timings), ""]), flush=True)
    for sweep in sweeps:
        if time.monotonic() < end:
            try:
                seconds = compare(sweep, backends, rules, device)
            except Exception as error:
                print(f"{title(sweep)}: {type(error).__name__}: {str(error)[:160]}", flush=True)
                continue
            record["routes"].append({"title": title(sweep), "seconds": seconds})
            _save(record, options.out)
            print("\n".join([*crossing(title(sweep), seconds), ""]), flush=True)
    for backend in backends:
        proposed = [source(rule) for rule in rules if backend_of(rule.config) == backend]
        print("\n".join([f"# {FILES[backend]}", *proposed]))
    return 0


def check_rule(case: Case, rule: AnyRule, device: torch.device) -> str | None:
    """Why a rule must not be used for a case; None if its loss and gradients are right."""
    try:
        errors, allowed = _gate(case, device).errors(loss_of(case, backend_of(rule.config), rule.config))
    except Exception as error:  # whatever a compiler or a driver says
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if errors.within(allowed):
        return None
    return f"wrong at {case.name}: loss {errors.loss:.1e}, gradient {errors.gradient:.1e}"


def time_rules(
    case: Case, rules: Mapping[str, AnyRule], device: torch.device, seconds_each: float, how: str | None = None
) -> dict[str, list[float]]:
    """Seconds of forward + backward by name, one number per round. how: EAGER or GRAPH; by default the latter for few
    rows."""
    sources, targets = _gate(case, device).sources, _gate(case, device).targets
    graph = case.n <= GRAPH_ROWS if how is None else how == GRAPH
    make = measure.graph_step if graph else measure.gradient_step
    losses = {name: loss_of(case, backend_of(rule.config), rule.config) for name, rule in rules.items()}
    steps = {name: make(loss, sources, targets) for name, loss in losses.items()}
    samples = measure.interleave(steps, device, ROUNDS, seconds_each)
    return {name: phases["both"] for name, phases in samples.items()}


def search(
    job: Job,
    device: torch.device,
    deadline: float,
    order: random.Random | None = None,
    check: Check = check_rule,
    clock: Clock = time_rules,
) -> Timings:
    """Checks as many candidates as there is time for, the present config first; then times those that passed.
    order: shuffles the others."""
    timings = Timings(job.name, source_of(job.rule.config))
    others = list(job.candidates)
    if order is not None:
        order.shuffle(others)
    begin = time.monotonic()
    passed: dict[str, AnyRule] = {}
    for tried, config in enumerate([job.rule.config, *others]):
        if time.monotonic() > begin + CHECKING * (deadline - begin) and tried:
            timings.untried = 1 + len(others) - tried
            break
        rule = replace(job.rule, config=config)
        cases = (*map(candidates.ragged, job.cases), *job.cases)
        reason = next(filter(None, (check(case, rule, device) for case in cases)), None)
        if reason:
            timings.dropped[source_of(config)] = reason
        else:
            passed[source_of(config)] = rule
    if not passed:
        return timings
    present = timings.present if timings.present in passed else next(iter(passed))
    ratios: dict[str, list[float]] = {name: [] for name in passed}
    for case in job.cases:
        each = max(0.02, (deadline - time.monotonic()) / (len(passed) * len(job.cases)))
        samples = clock(case, passed, device, each)
        for name, values in samples.items():
            timings.seconds.setdefault(name, {})[case.name] = measure.Spread.of(values).p50
            ratios[name].append(measure.ratio(values, samples[present]).p50)
    timings.ratio = {name: math.exp(sum(map(math.log, values)) / len(values)) for name, values in ratios.items()}
    return timings


def compare(
    sweep: Sweep,
    backends: Sequence[str],
    proposed: Sequence[AnyRule],
    device: torch.device,
    check: Check = check_rule,
    clock: Callable[..., dict[str, list[float]]] = time_rules,
) -> Routes:
    """Each route with the config that is proposed for it (the present one if there is none)."""
    seconds: dict[int | str, dict[str, dict[str, float]]] = {}
    for n in sweep.rows:
        case = candidates.of_rows(sweep.case, n)
        right = {}
        for backend in backends:
            for route in sweep.routes:
                rule = candidates.rule_for(backend, route, case, proposed)
                if rule is not None and check(case, rule, device) is None:
                    right[f"{backend} {route}"] = rule
        for how in (EAGER, GRAPH) if n <= GRAPH_ROWS else (EAGER,):
            samples = clock(case, right, device, 0.1, how) if right else {}
            medians = {name: measure.Spread.of(values).p50 for name, values in samples.items()}
            seconds.setdefault(n, {})[how] = medians
    return seconds


@lru_cache(maxsize=8)
def _gate(case: Case, device: torch.device) -> Gate:
    return Gate(case, *case.inputs(device))


def _save(record: dict[str, Any], out: Path) -> None:
    with write_atomically(out) as file:
        file.write(json.dumps(record, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all of it (default: 600)")
    parser.add_argument("--short", action="store_true", help="short lists instead of all candidates")
    parser.add_argument("--only", default="", metavar="TEXT", help="rules whose name contains this; no routes")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which candidates are tried")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "bench" / "tune.json", help="(default: runs/bench/tune.json)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
