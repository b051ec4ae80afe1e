"""Measures the configurations of the launch tables on the GPU at hand, and proposes lines.

    python -m bench.tune --seconds 600
    python -m bench.tune --only "cuda tiles"    lines whose name contains this; names begin with the backend
    python -m bench.tune --short --seconds 80   the most promising alternatives alone, from short lists, in their order

The tables are fastmmd/backends/cuda.py and kernels/table.py. A backend that can't run here is left out.

Each candidate is compared with the fp64 reference at a ragged size and at the sizes that are timed; one that is wrong,
fails to compile or needs more than the GPU has is named and dropped. The rest are timed in turns, small ones in CUDA
graphs. Where time does not suffice for all, a random part is tried. Then the routes of all backends take turns over N:
what `AUTOMATIC` in fastmmd/dispatch.py and the tables' rows rest on. Nothing is changed: lines are copied by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import candidates, environment, measure
from bench.candidates import Job, Sweep, backend_of, name, table_of
from bench.cases import Case
from bench.competitors import Loss, line_up
from bench.gate import Gate
from bench.throughput import GRAPH_ROWS, ROOT
from fastmmd import dispatch
from fastmmd.models.files import write_atomically

if TYPE_CHECKING:
    from bench.candidates import Line

CHECKING = 0.7  # part of a job's time for compiling and checking; the rest is for timing
ROUNDS = 7
WORTH = 0.98  # of the present time: what takes longer than this is no reason for a change
EAGER, GRAPH = "eager", "in a CUDA graph"
FILES = {"cuda": "fastmmd/backends/cuda.py", "triton": "kernels/table.py"}

Check = Callable[[Case, "Line", torch.device], "str | None"]
Clock = Callable[[Case, Mapping[str, "Line"], torch.device, float], dict[str, list[float]]]
Routes = Mapping[int | str, Mapping[str, Mapping[str, float]]]  # N, EAGER or GRAPH, route: seconds


@dataclass
class Found:
    """What was measured for a job, by configuration.

    present: the configuration of the table's line.
    seconds: by case.
    ratio: time over that of the present line, geometric mean over the cases.
    dropped: why it was not timed.
    untried: how many there was no time for.
    """

    job: str
    present: str
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    untried: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device("cuda", 0)
    backends = []
    for backend in candidates.BACKENDS:
        lack = dispatch.unavailable(backend, device) if torch.cuda.is_available() else "no CUDA device"
        if lack is None:
            backends.append(backend)
        else:
            print(f"cannot tune {backend} here: {lack}", file=sys.stderr)
    if not backends:
        return 2
    end = time.monotonic() + options.seconds
    record: dict[str, Any] = {"environment": environment.describe(device), "jobs": [], "routes": []}
    where = record["environment"]["gpu"]
    jobs = candidates.short_jobs(backends) if options.short else candidates.jobs(backends)
    todo = [job for job in jobs if options.only in job.name]
    sweeps = [] if options.only else candidates.short_sweeps() if options.short else candidates.sweeps()
    chance = None if options.short else random.Random(options.seed)
    lines: list[Line] = []
    for position, job in enumerate(todo):
        share = (end - time.monotonic()) / (len(todo) - position + len(sweeps) / 2)
        try:
            found = search(job, device, time.monotonic() + share, chance)
        except Exception as error:  # of timing: the other jobs are still worth it
            present = name(job.line.config)
            found = Found(job.name, present, dropped={present: f"{type(error).__name__}: {str(error)[:160]}"})
        lines.append(proposal(job, found, where))
        record["jobs"].append(vars(found))
        _save(record, options.out)
        print("\n".join([*listing(found), ""]), flush=True)
    for sweep in sweeps:
        if time.monotonic() < end:
            try:
                seconds = compare(sweep, backends, lines, device)
            except Exception as error:
                print(f"{title(sweep)}: {type(error).__name__}: {str(error)[:160]}", flush=True)
                continue
            record["routes"].append({"title": title(sweep), "seconds": seconds})
            _save(record, options.out)
            print("\n".join([*crossing(title(sweep), seconds), ""]), flush=True)
    for backend in backends:
        print("\n".join([f"# {FILES[backend]}", *(source(line) for line in lines if backend_of(line) == backend)]))
    return 0


def check_line(case: Case, line: Line, device: torch.device) -> str | None:
    """Why a line must not be used for a case; None if its loss and gradients are right."""
    try:
        errors, allowed = _gate(case, device).errors(loss_of(case, line))
    except Exception as error:  # whatever a compiler or a driver says
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if errors.within(allowed):
        return None
    return f"wrong at {case.name}: loss {errors.loss:.1e}, gradient {errors.gradient:.1e}"


def time_lines(
    case: Case, lines: Mapping[str, Line], device: torch.device, seconds_each: float, how: str | None = None
) -> dict[str, list[float]]:
    """Seconds of forward + backward, a number a round, by name. how: EAGER or GRAPH; by default the latter for few
    rows."""
    sources, targets = _gate(case, device).sources, _gate(case, device).targets
    graph = case.n <= GRAPH_ROWS if how is None else how == GRAPH
    make = measure.graph_step if graph else measure.gradient_step
    steps = {key: make(loss_of(case, line), sources, targets) for key, line in lines.items()}
    samples = measure.interleave(steps, device, ROUNDS, seconds_each)
    return {key: own["both"] for key, own in samples.items()}


@lru_cache(maxsize=8)
def _gate(case: Case, device: torch.device) -> Gate:
    return Gate(case, *case.inputs(device))


def loss_of(case: Case, line: Line) -> Loss:
    """The loss of a case, computed as a line of the table says, whatever the table would choose."""
    loss = line_up((backend_of(line),))[0].make(case)

    def forced(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with candidates.forced(line):
            return loss(sources, targets)

    return forced


def search(
    job: Job,
    device: torch.device,
    deadline: float,
    chance: random.Random | None = None,
    check: Check = check_line,
    clock: Clock = time_lines,
) -> Found:
    """Checks as many candidates as there is time for, the present configuration first; then times those that passed.
    chance: for a random order of the others."""
    found = Found(job.name, name(job.line.config))
    others = list(job.candidates)
    if chance is not None:
        chance.shuffle(others)
    begin = time.monotonic()
    passed: dict[str, Line] = {}
    for tried, config in enumerate([job.line.config, *others]):
        if time.monotonic() > begin + CHECKING * (deadline - begin) and tried:
            found.untried = 1 + len(others) - tried
            break
        line = job.line._replace(config=config)
        cases = (*map(candidates.ragged, job.cases), *job.cases)
        reason = next(filter(None, (check(case, line, device) for case in cases)), None)
        if reason:
            found.dropped[name(config)] = reason
        else:
            passed[name(config)] = line
    if not passed:
        return found
    present = name(job.line.config) if name(job.line.config) in passed else next(iter(passed))
    ratios: dict[str, list[float]] = {key: [] for key in passed}
    for case in job.cases:
        each = max(0.02, (deadline - time.monotonic()) / (len(passed) * len(job.cases)))
        samples = clock(case, passed, device, each)
        for key, values in samples.items():
            found.seconds.setdefault(key, {})[case.name] = measure.Spread.of(values).p50
            ratios[key].append(measure.ratio(values, samples[present]).p50)
    found.ratio = {key: math.exp(sum(map(math.log, values)) / len(values)) for key, values in ratios.items()}
    return found


def compare(
    sweep: Sweep,
    backends: Sequence[str],
    lines: Sequence[Line],
    device: torch.device,
    check: Check = check_line,
    clock: Callable[..., dict[str, list[float]]] = time_lines,
) -> Routes:
    """Each route with the configuration proposed for it (the present one if there is none)."""
    seconds: dict[int | str, dict[str, dict[str, float]]] = {}
    for n in sweep.rows:
        case = candidates.of_rows(sweep.case, n)
        routes = {route: candidates.line_for(*route.split(), case, lines) for route in names(sweep, backends)}
        right = {key: line for key, line in routes.items() if line and check(case, line, device) is None}
        for how in (EAGER, GRAPH) if n <= GRAPH_ROWS else (EAGER,):
            samples = clock(case, right, device, 0.1, how) if right else {}
            found = {key: measure.Spread.of(values).p50 for key, values in samples.items()}
            seconds.setdefault(n, {})[how] = found
    return seconds


def names(sweep: Sweep, backends: Sequence[str]) -> list[str]:
    return [f"{backend} {kind}" for backend in backends for kind in sweep.kinds]


# What is printed -----------------------------------------------------------------------------------------------------


def proposal(job: Job, found: Found, where: str) -> Line:
    """The job's line with the fastest configuration, and the figures that speak for it."""
    if not found.ratio:
        return job.line
    present = name(job.line.config)
    best = min(found.ratio, key=lambda key: found.ratio[key])
    if present in found.ratio and found.ratio[best] > WORTH:
        best = present
    config = next(c for c in (job.line.config, *job.candidates) if name(c) == best)
    times = "; ".join(f"{case} {1e6 * seconds:.3g} us" for case, seconds in found.seconds[best].items())
    rivals = [ratio for key, ratio in found.ratio.items() if key != best]
    lead = min(rivals, default=found.ratio[best]) / found.ratio[best]
    reason = f"{where}: {times}; the next of {len(found.ratio)} tried takes {lead:.2f} times as long"
    return job.line._replace(config=config, reason=reason)


def listing(found: Found) -> Iterator[str]:
    """The timings of a job, fastest first, and what was dropped."""
    cases = list(dict.fromkeys(case for seconds in found.seconds.values() for case in seconds))
    yield f"## {found.job}"
    yield ""
    yield "| configuration | " + " | ".join(f"{case}, us" for case in cases) + " | over the present |"
    yield "| --- |" + " --- |" * (len(cases) + 1)
    for key in sorted(found.ratio, key=lambda key: found.ratio[key]):
        times = " | ".join(f"{1e6 * found.seconds[key][case]:.1f}" for case in cases)
        mark = " (present)" if key == found.present else ""
        yield f"| {key}{mark} | {times} | {found.ratio[key]:.3f} |"
    yield ""
    yield from (f"* dropped: {key}: {reason}" for key, reason in found.dropped.items())
    if found.untried:
        yield f"* {found.untried} more were not tried: no time"


def title(sweep: Sweep) -> str:
    return f"{' or '.join(sweep.kinds)}: d {' x '.join(map(str, sweep.case.dims))}, {sweep.case.precision}"


def crossing(heading: str, seconds: Routes) -> Iterator[str]:
    """Routes over N, and where each is the fastest: of all, and of its backend."""
    routes = list(dict.fromkeys(key for of in seconds.values() for found in of.values() for key in found))
    yield f"## {heading}"
    yield ""
    yield "| N | " + " | ".join(f"{key}, us" for key in routes) + " |"
    yield "| --- |" + " --- |" * len(routes)
    for n, of in seconds.items():
        for how, found in of.items():
            cells = " | ".join(f"{1e6 * found[key]:.1f}" if key in found else "failed" for key in routes)
            yield f"| {n}, {how} | {cells} |"
    yield ""
    backends = list(dict.fromkeys(key.split()[0] for key in routes))
    for how in (EAGER, GRAPH):
        for whose in ("", *(backends if len(backends) > 1 else ())):
            fastest: dict[str, list[int]] = {}
            for n, of in seconds.items():
                own = {key: time for key, time in of.get(how, {}).items() if key.startswith(whose)}
                if own:
                    fastest.setdefault(min(own, key=lambda key: own[key]), []).append(n)
            if fastest:
                where = "; ".join(f"{key} at N = {', '.join(map(str, at))}" for key, at in fastest.items())
                yield f"* fastest {how}{f' of {whose}' if whose else ''}: {where}"


def source(line: Line) -> str:
    """A line as Python."""
    of = table_of(backend_of(line))
    fits = ", ".join(_python(value, of) for value in line[:-2])
    return f"    Line(\n        *({fits}),\n        {name(line.config)},\n        {json.dumps(line.reason)},\n    ),"


def _python(value: Any, of: ModuleType) -> str:
    if value == of.ALL or value == of.ANY:
        return "ALL" if value == of.ALL else "ANY"
    if isinstance(value, tuple):
        return "(" + ", ".join(_python(item, of) for item in value) + (",)" if len(value) == 1 else ")")
    return json.dumps(value)


def _save(record: dict[str, Any], out: Path) -> None:
    with write_atomically(out) as file:
        file.write(json.dumps(record, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all of it (default: 600)")
    parser.add_argument("--short", action="store_true", help="short lists instead of all candidates")
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose name contains this; no routes")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which candidates are tried")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "bench" / "tune.json", help="(default: runs/bench/tune.json)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
