"""What bench/tune.py prints: timings as tables, where each route is the fastest, and rules as Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING

from bench.candidates import Job, Sweep
from bench.routes import source_of

if TYPE_CHECKING:
    from bench.routes import AnyRule

WORTH = 0.98  # of the present time: what takes longer than this is no reason for a change
EAGER, GRAPH = "eager", "in a CUDA graph"

Routes = Mapping[int | str, Mapping[str, Mapping[str, float]]]  # N, EAGER or GRAPH, backend and route: seconds


@dataclass
class Timings:
    """What was measured for a job, by config as `source_of` writes it.

    present: the config of the rule.
    seconds: by case.
    ratio: time over that of the present config, geometric mean over the cases.
    dropped: why it was not timed.
    untried: how many there was no time for.
    """

    job: str
    present: str
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    untried: int = 0


def proposal(job: Job, timings: Timings, gpu: str) -> AnyRule:
    """The job's rule with the fastest config, and the figures that speak for it."""
    if not timings.ratio:
        return job.rule
    best = min(timings.ratio, key=lambda name: timings.ratio[name])
    if timings.present in timings.ratio and timings.ratio[best] > WORTH:
        best = timings.present
    config = next(config for config in (job.rule.config, *job.candidates) if source_of(config) == best)
    times = "; ".join(f"{case} {1e6 * seconds:.3g} us" for case, seconds in timings.seconds[best].items())
    rivals = [ratio for name, ratio in timings.ratio.items() if name != best]
    lead = min(rivals, default=timings.ratio[best]) / timings.ratio[best]
    reason = f"{gpu}: {times}; the next of {len(timings.ratio)} tried takes {lead:.2f} times as long"
    return replace(job.rule, config=config, reason=reason)


def listing(timings: Timings) -> Iterator[str]:
    """The timings of a job, fastest first, and what was dropped."""
    cases = list(dict.fromkeys(case for seconds in timings.seconds.values() for case in seconds))
    yield f"## {timings.job}"
    yield ""
    yield "| config | " + " | ".join(f"{case}, us" for case in cases) + " | over the present |"
    yield "| --- |" + " --- |" * (len(cases) + 1)
    for name in sorted(timings.ratio, key=lambda name: timings.ratio[name]):
        times = " | ".join(f"{1e6 * timings.seconds[name][case]:.1f}" for case in cases)
        mark = " (present)" if name == timings.present else ""
        yield f"| {name}{mark} | {times} | {timings.ratio[name]:.3f} |"
    yield ""
    yield from (f"* dropped: {name}: {reason}" for name, reason in timings.dropped.items())
    if timings.untried:
        yield f"* {timings.untried} more were not tried: no time"


def title(sweep: Sweep) -> str:
    return f"{' or '.join(sweep.routes)}: d {' x '.join(map(str, sweep.case.dims))}, {sweep.case.precision}"


def crossing(heading: str, seconds: Routes) -> Iterator[str]:
    """Routes over N, and where each is the fastest: of all, and of its backend."""
    routes = list(dict.fromkeys(name for ways in seconds.values() for times in ways.values() for name in times))
    yield f"## {heading}"
    yield ""
    yield "| N | " + " | ".join(f"{name}, us" for name in routes) + " |"
    yield "| --- |" + " --- |" * len(routes)
    for n, ways in seconds.items():
        for how, times in ways.items():
            cells = " | ".join(f"{1e6 * times[name]:.1f}" if name in times else "failed" for name in routes)
            yield f"| {n}, {how} | {cells} |"
    yield ""
    backends = list(dict.fromkeys(name.split()[0] for name in routes))
    for how in (EAGER, GRAPH):
        for backend in ("", *(backends if len(backends) > 1 else ())):
            fastest = _fastest(seconds, how, backend)
            if fastest:
                crossings = "; ".join(f"{name} at N = {', '.join(sizes)}" for name, sizes in fastest.items())
                yield f"* fastest {how}{f' of {backend}' if backend else ''}: {crossings}"


def _fastest(seconds: Routes, how: str, backend: str) -> dict[str, list[str]]:
    """The sizes N at which each route is the fastest of a backend's; "": of all."""
    fastest: dict[str, list[str]] = {}
    for n, ways in seconds.items():
        times = {name: time for name, time in ways.get(how, {}).items() if name.startswith(backend)}
        if times:
            fastest.setdefault(min(times, key=lambda name: times[name]), []).append(str(n))
    return fastest


def source(rule: AnyRule) -> str:
    """A rule as Python: what differs from the defaults, by keyword; the reason last."""
    optional = {f.name: f.default for f in fields(rule) if f.default is not MISSING}
    limits = {name: getattr(rule, name) for name, default in optional.items() if getattr(rule, name) != default}
    lines = [
        f"config={source_of(rule.config)}",
        f"formats={_value(rule.formats)}",
        *(f"{name}={_value(value)}" for name, value in limits.items()),
        f"reason={json.dumps(rule.reason)}",
    ]
    return "\n".join(["    Rule(", *(f"        {line}," for line in lines), "    ),"])


def _value(value: object) -> str:
    if not isinstance(value, tuple):
        return json.dumps(value) if isinstance(value, str) else repr(value)
    return "(" + ", ".join(map(json.dumps, value)) + (",)" if len(value) == 1 else ")")
