"""The record of a run: JSON to keep, Markdown to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.competitors import BLOCKED, COMPILED, DENSE, NAIVE, NEEDS, TWO_CALLS
from bench.gate import Errors
from bench.measure import PHASES, Spread
from fastmmd.models.files import write_atomically

BASELINES = (NAIVE, DENSE, BLOCKED, COMPILED, TWO_CALLS)
MIB = 2**20


@dataclass
class Result:
    """One competitor on one case: skipped (why), red (errors beyond those allowed, nothing else), or measured.

    seconds: by phase. extra_bytes: peak memory beside inputs and returned gradients. For fastmmd's backends also, round
    by round and of forward + backward: speedup over other competitors, share of torch.mm's rate, and seconds over an
    empty autograd.Function.
    """

    case: str
    competitor: str
    skipped: str | None = None
    errors: Errors | None = None
    allowed: Errors | None = None
    seconds: dict[str, Spread] = field(default_factory=dict)
    rounds: int = 0
    extra_bytes: int | None = None
    speedup: dict[str, Spread] = field(default_factory=dict)
    share: Spread | None = None
    overhead: Spread | None = None

    @property
    def red(self) -> bool:
        return self.errors is not None and self.allowed is not None and not self.errors.within(self.allowed)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        data = dict(data)
        for key in ("errors", "allowed"):
            data[key] = data[key] and Errors(**data[key])
        for key in ("share", "overhead"):
            data[key] = data[key] and Spread(*data[key])
        for key in ("seconds", "speedup"):
            data[key] = {name: Spread(*values) for name, values in data[key].items()}
        return cls(**data)


@dataclass
class Report:
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]

    def save(self, path: Path) -> None:
        with write_atomically(path) as file:
            file.write(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        data = json.loads(path.read_text())
        return cls(data["environment"], data["settings"], [Result.from_json(result) for result in data["results"]])

    def of(self, case: str) -> Iterator[Result]:
        return (result for result in self.results if result.case == case)

    def conditions(self) -> str:
        """One line for the foot of every table and plot."""
        e = self.environment
        machine = e["gpu"] or f"{e['cpu']}, {e['threads']} threads, {e['cpu_variant'] or 'nothing compiled'}"
        revision = (e["revision"] or "unknown")[:10] + (" + changes" if e["dirty"] else "")
        return f"{machine}; torch {e['torch']}, fastmmd {e['fastmmd']} ({revision}), fp32, {e['date'][:10]}"


def markdown(report: Report, cases: dict[str, Case]) -> str:
    return "\n".join(
        [
            "# Throughput and memory",
            "",
            report.conditions() + ".",
            "",
            "Median [20th - 80th percentile] over interleaved rounds; speedups and shares are taken within a round, of "
            "forward + backward. *Share of torch.mm's rate*: the time of the `3 N^2 sum d` flop of the Gram matrices "
            "and their gradients at the rate `torch.mm` reached on `[N, d] x [d, N]` in the same rounds, over the "
            "time of the whole loss. It is no physical limit: kernels that multiply faster than `torch.mm` exceed 1. "
            "*Extra memory*: peak of all tensors allocated, beside inputs and returned gradients. *Over empty*: time "
            "over an autograd.Function with as many inputs that only scales ready-made gradients. Targets in brackets.",
            "",
            *_summary(report, cases),
            "",
            "## Everyone",
            "",
            "`loss`: without gradients. fastmmd computes its gradient in the forward pass. Errors are those of fp32 "
            "against fp64: of the loss, absolute; of the gradient, relative.",
            "",
            *_everyone(report),
            "",
            *_skipped(report),
            "",
        ]
    )


def _summary(report: Report, cases: dict[str, Case]) -> Iterator[str]:
    versus = [f"x {name}" for name in BASELINES]
    yield from _head("case", "backend", "fwd + bwd", *versus, "share of torch.mm's rate", "extra memory", "over empty")
    for result in report.results:
        if not result.speedup and result.share is None:
            continue
        targets = cases[result.case].targets
        floors = {NAIVE: targets.naive, DENSE: targets.dense}
        others = {other.competitor: other for other in report.of(result.case)}
        yield _row(
            result.case,
            result.competitor,
            _time(result.seconds["both"]),
            *(_speedup(result, others.get(name), floors.get(name)) for name in BASELINES),
            _spread(result.share, "{:.2f}") + _target(">=", targets.share),
            f"{result.extra_bytes / MIB:.2f} MiB" + _target("<", targets.extra_mib),
            _time(result.overhead) if result.overhead else "-",
        )


def _speedup(result: Result, other: Result | None, floor: float | None) -> str:
    if result.speedup.get(other.competitor if other else ""):
        return _spread(result.speedup[other.competitor], "{:.3g}") + _target(">=", floor)
    return other.skipped if other and other.skipped and other.skipped.startswith(NEEDS) else "-"


def _everyone(report: Report) -> Iterator[str]:
    yield from _head("case", "competitor", *PHASES, "extra memory", "error of loss", "of gradient", "rounds")
    for r in report.results:
        if r.skipped:
            continue
        errors = (f"{r.errors.loss:.1e}", f"{r.errors.gradient:.1e}")
        if r.red:
            limits = f"{r.allowed.loss:.1e} and {r.allowed.gradient:.1e}"
            yield _row(r.case, r.competitor, f"**wrong: errors beyond {limits}**", *[""] * 4, *errors, "")
            continue
        times = [_time(r.seconds[phase]) for phase in PHASES]
        yield _row(r.case, r.competitor, *times, f"{r.extra_bytes / MIB:.2f} MiB", *errors, str(r.rounds))


def _skipped(report: Report) -> Iterator[str]:
    """Who was not measured, and why: one line a reason."""
    reasons: dict[str, list[str]] = {}
    for result in report.results:
        if result.skipped:
            reasons.setdefault(f"{result.competitor}: {result.skipped}", []).append(result.case)
    everywhere = len({result.case for result in report.results})
    for reason, cases in reasons.items():
        yield f"* {reason}" + ("" if len(cases) == everywhere else f" ({'; '.join(cases)})")


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*["---"] * len(names))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _target(relation: str, value: float | None) -> str:
    return "" if value is None else f" ({relation} {value:g})"


def _spread(spread: Spread | None, form: str) -> str:
    return "-" if spread is None else f"{form} [{form} - {form}]".format(spread.p50, spread.p20, spread.p80)


def _time(spread: Spread) -> str:
    unit, scale = ("s", 1) if spread.p50 >= 1 else ("ms", 1e3) if spread.p50 >= 1e-3 else ("us", 1e6)
    return _spread(Spread(*(scale * value for value in spread)), "{:.3g}") + " " + unit
