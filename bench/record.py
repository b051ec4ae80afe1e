"""The record of a run, as JSON: results by case and competitor, where they were measured, and what was checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import CASES, Case, Targets
from bench.gate import Errors
from bench.measure import Spread
from fastmmd.models.files import write_atomically

FAILED = "failed:"
NO_TIME = "no time left"
MIB = 2**20


@dataclass
class Result:
    """One competitor on one case: skipped, wrong, or measured.

    skipped: why.
    errors, allowed: where the errors are beyond those allowed, nothing is measured.
    seconds: by phase.
    extra_bytes: peak memory beside inputs and returned gradients.
    speedup, share, overhead: of fastmmd's backends, in forward + backward, round by round: speedup over other
        competitors, share of torch.mm's rate, seconds over an empty autograd.Function.
    graph: on a GPU, up to some number of rows: seconds of forward + backward in a CUDA graph.
    launches: there too, of kernels, copies and fills: in the "forward" pass, and in "both".
    backend: the one that "auto" took.
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
        """What is printed while a run goes on."""
        if self.wrong:
            return f"{self.label}: wrong, {self.errors}"
        if self.skipped:
            return f"{self.label}: {self.skipped}"
        share = f", {self.share.p50:.2f} of torch.mm's rate" if self.share else ""
        return f"{self.label}: {duration(self.seconds['both'])}{share}"

    @property
    def failed(self) -> bool:
        return self.skipped is not None and self.skipped.startswith(FAILED)

    @property
    def wrong(self) -> bool:
        """Whether the errors are beyond those allowed."""
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
    """What a loss takes of a training step (bench/training.py).

    seconds: of the step with the loss.
    share: the part of them that a step without the loss does not take.
    """

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
    """A run. checks: what was run before anything was timed, and how it ended."""

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
        """The cases that occur in it, by name."""
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


def duration(spread: Spread) -> str:
    """A spread of seconds in the unit that suits it: ``2 [1 - 4] ms``."""
    unit, scale = ("s", 1.0) if spread.p50 >= 1 else ("ms", 1e3) if spread.p50 >= 1e-3 else ("us", 1e6)
    return spread_text(Spread(*[scale * value for value in spread]), "{:.3g}") + " " + unit


def spread_text(spread: Spread | None, form: str) -> str:
    """The median with the quantiles around it, each as `form` has it."""
    return "-" if spread is None else f"{form} [{form} - {form}]".format(spread.p50, spread.p20, spread.p80)
