"""The record of a run: JSON to keep, Markdown to read.

python -m bench.report RECORD.json      prints the table of a record, for one whose run was cut off
python -m bench.report FOLDER           prints whatever bench/gpu.py has left in a folder
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import keops
from bench.cases import CASES, Case, Targets
from bench.competitors import BLOCKED, COMPILED, DENSE, NAIVE, NEEDS, TWO_CALLS
from bench.gate import Errors
from bench.measure import PHASES, Spread
from fastmmd.models.files import write_atomically

BASELINES = (NAIVE, DENSE, BLOCKED, COMPILED, TWO_CALLS, keops.NAME)
FAILED = "failed:"
NO_TIME = "no time left"
MIB = 2**20


@dataclass
class Result:
    """One competitor on one case: skipped (why), red (errors beyond those allowed, nothing else), or measured.

    seconds: by phase. extra_bytes: peak memory beside inputs and returned gradients. For fastmmd's backends also, round
    by round and of forward + backward: speedup over other competitors, share of torch.mm's rate, and seconds over an
    empty autograd.Function. On a GPU also, up to some number of rows: graph, seconds of forward + backward in a CUDA
    graph; launches, of kernels, copies and fills, with "forward" and "both". backend: the one that "auto" took.
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
    graph: Spread | None = None
    launches: dict[str, int] = field(default_factory=dict)
    backend: str | None = None

    @property
    def label(self) -> str:
        return f"{self.competitor} ({self.backend})" if self.backend else self.competitor

    @property
    def line(self) -> str:
        """For people who watch the run."""
        if self.red:
            return f"{self.label}: wrong, {self.errors}"
        if self.skipped:
            return f"{self.label}: {self.skipped}"
        share = f", {self.share.p50:.2f} of torch.mm's rate" if self.share else ""
        return f"{self.label}: {_time(self.seconds['both'])}{share}"

    @property
    def failed(self) -> bool:
        return self.skipped is not None and self.skipped.startswith(FAILED)

    @property
    def red(self) -> bool:
        return self.errors is not None and self.allowed is not None and not self.errors.within(self.allowed)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        data = dict(data)
        for key in ("errors", "allowed"):
            data[key] = data[key] and Errors(**data[key])
        for key in ("share", "overhead", "graph"):
            data[key] = data.get(key) and Spread(*data[key])
        for key in ("seconds", "speedup"):
            data[key] = {name: Spread(*values) for name, values in data[key].items()}
        return cls(**data)


@dataclass
class StepShare:
    """What a loss takes of a training step (bench/training.py). seconds: of the step with the loss. share: the part of
    them that a step without the loss does not take."""

    precision: str
    loss: str
    skipped: str | None = None
    seconds: Spread | None = None
    share: Spread | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StepShare:
        return cls(**{**data, **{key: data[key] and Spread(*data[key]) for key in ("seconds", "share")}})


@dataclass
class Report:
    """checks: what was run before anything was timed, and how it ended."""

    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]
    training: list[StepShare] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        with write_atomically(path) as file:
            file.write(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        data = json.loads(path.read_text())
        return cls(
            data["environment"],
            data["settings"],
            [Result.from_json(result) for result in data["results"]],
            [StepShare.from_json(share) for share in data.get("training", [])],
            data.get("checks", {}),
        )

    @classmethod
    def resume(cls, path: Path, environment: dict[str, Any]) -> Report:
        """The record at `path`, if it was made in the same environment; else a new one."""
        if path.exists():
            report = cls.load(path)
            passing = {"date": "", "driver": "", "nvcc": "", "threads": ""}  # what a busy machine may fail to say
            if report.environment | passing == environment | passing:
                return report
            print(f"{path} was made in another environment and is replaced", flush=True)
        return cls(environment, {}, [])

    def cases(self) -> dict[str, Case]:
        """Those that occur in it, by name."""
        names = {result.case for result in self.results}
        return {case.name: case for case in CASES if case.name in names}

    def targets(self, case: Case) -> Targets:
        return case.targets_on("cuda" if self.environment["gpu"] else "cpu")

    def of(self, case: str) -> Iterator[Result]:
        return (result for result in self.results if result.case == case)

    def conditions(self) -> str:
        """One line for the foot of every table and plot."""
        e = self.environment
        machine = e["gpu"] or f"{e['cpu']}, {e['threads']} threads, {e['cpu_variant'] or 'nothing compiled'}"
        revision = (e["revision"] or "unknown")[:10] + (" + changes" if e["dirty"] else "")
        if e["gpu"]:
            kernels = e.get("cuda_kernels")
            machine += f", driver {e['driver']}, Triton {e['triton']}, "
            machine += f"CUDA kernels for {kernels}" if kernels else "no CUDA kernels"
        return f"{machine}; torch {e['torch']}, fastmmd {e['fastmmd']} ({revision}), fp32, {e['date'][:10]}"


def markdown(report: Report, cases: dict[str, Case]) -> str:
    return "\n".join(
        [
            "# Throughput and memory",
            "",
            report.conditions() + ".",
            "",
            *(f"* {check}: {outcome}" for check, outcome in report.checks.items()),
            *([""] if report.checks else []),
            "Median [20th - 80th percentile] over interleaved rounds; speedups and shares are taken within a round, of "
            "forward + backward. *Share of torch.mm's rate*: the time of the `3 N^2 sum d` flop of the Gram matrices "
            "and their gradients at the rate `torch.mm` reached on `[N, d] x [d, N]` in the same rounds, over the "
            "time of the whole loss. It is no physical limit: kernels that multiply faster than `torch.mm` exceed 1. "
            "*Extra memory*: peak of all tensors allocated, beside inputs and returned gradients. *Over empty*: time "
            "over an autograd.Function with as many inputs that only scales ready-made gradients. Targets in brackets.",
            "",
            *_summary(report, cases),
            "",
            *_on_a_gpu(report, cases),
            *_training(report),
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
    # KeOps has a column where it took part only; the others say what they lack.
    took_part = {name for result in report.results for name in result.speedup}
    baselines = [name for name in BASELINES if name != keops.NAME or name in took_part]
    versus = [f"x {name}" for name in baselines]
    yield from _head("case", "backend", "fwd + bwd", *versus, "share of torch.mm's rate", "extra memory", "over empty")
    for result in report.results:
        if not result.speedup and result.share is None:
            continue
        targets = report.targets(cases[result.case])
        floors = {NAIVE: targets.naive, DENSE: targets.dense, COMPILED: targets.compiled}
        others = {other.competitor: other for other in report.of(result.case)}
        yield _row(
            result.case,
            result.label,
            _time(result.seconds["both"]),
            *(_speedup(result, others.get(name), floors.get(name)) for name in baselines),
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
            yield _row(r.case, r.label, f"**wrong: errors beyond {limits}**", *[""] * 4, *errors, "")
            continue
        times = [_time(r.seconds[phase]) for phase in PHASES]
        yield _row(r.case, r.label, *times, f"{r.extra_bytes / MIB:.2f} MiB", *errors, str(r.rounds))


def _on_a_gpu(report: Report, cases: dict[str, Case]) -> Iterator[str]:
    """Of everyone: in a CUDA graph, and launches; nothing if neither was measured."""
    found = [result for result in report.results if result.graph or result.launches]
    if not found:
        return
    yield "## In a CUDA graph"
    yield ""
    yield (
        "Forward + backward, launched one by one and replayed from a CUDA graph, and how many kernels, copies and "
        "fills that takes. Every step reads the same inputs, so small ones come from the GPU's cache."
    )
    yield ""
    yield from _head("case", "competitor", "eager", "in a graph", "launches, forward", "forward + backward")
    for result in found:
        counts = [str(result.launches[phase]) if result.launches else "-" for phase in ("forward", "both")]
        target = report.targets(cases[result.case]).graph_us if result.speedup else None
        graph = _time(result.graph) + _target("<", target) if result.graph else "-"
        yield _row(result.case, result.label, _time(result.seconds["both"]), graph, *counts)
    yield ""


def _training(report: Report) -> Iterator[str]:
    if not report.training:
        return
    yield "## Share of a training step"
    yield ""
    yield (
        "ResNet-50, 32 + 32 images of 224 x 224 pixels: forward and backward with a cross entropy alone, and with the "
        "JMMD of features and softmax outputs (d 2048 x 31) added. Share: what the loss adds, over the whole step."
    )
    yield ""
    yield from _head("precision of the network", "loss", "step", "share, %")
    for share in report.training:
        percent = share.share and Spread(*(100 * value for value in share.share))
        step = _time(share.seconds) if share.seconds else share.skipped or "-"
        yield _row(share.precision, share.loss, step, _spread(percent, "{:.2g}"))
    yield ""


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Renders results as Markdown: bench/gpu.py's folder, or a record.")
    parser.add_argument("path", type=Path, help="the folder, or the JSON file of bench/throughput.py")
    path = parser.parse_args(arguments).path
    if path.is_dir():
        from bench import folder

        print(folder.render(path))
    else:
        report = Report.load(path)
        print(markdown(report, report.cases()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
