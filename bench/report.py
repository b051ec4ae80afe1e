"""A record as Markdown.

python -m bench.report RECORD.json      prints the table of a record, for one whose run was cut off
python -m bench.report FOLDER           prints whatever bench/gpu.py has left in a folder
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import keops
from bench.cases import Case
from bench.competitors import (
    BLOCKED,
    COMPILED,
    DENSE,
    GEOMLOSS,
    GEOMLOSS_ONLINE,
    NAIVE,
    NEEDS,
    PER_PAIR,
    TWO_CALLS,
    WITHOUT_WEIGHTS,
)
from bench.gate import Errors
from bench.measure import PHASES, Spread
from bench.record import MIB, Report, Result, StepShare, duration, spread_text
from bench.restated import DOMAINBED, DSAN, TRVAE

BASELINES = (NAIVE, DENSE, BLOCKED, COMPILED, TWO_CALLS, keops.NAME)
OF_FORMS = (
    WITHOUT_WEIGHTS,
    PER_PAIR,
    DOMAINBED,
    DSAN,
    TRVAE,
    GEOMLOSS,
    GEOMLOSS_ONLINE,
    DENSE,
    BLOCKED,
    COMPILED,
)


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
            *_weighted(report, cases),
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
    results = [result for result in _measured(report) if cases[result.case].form is None]
    took_part = {name for result in results for name in result.speedup}
    baselines = [name for name in BASELINES if name != keops.NAME or name in took_part]
    yield from _table(report, cases, results, baselines)


def _weighted(report: Report, cases: dict[str, Case]) -> Iterator[str]:
    """Cases in which pairs of rows have weights of their own; nothing if none was measured."""
    results = [result for result in _measured(report) if cases[result.case].form is not None]
    if not results:
        return
    took_part = {name for result in results for name in result.speedup}
    yield "## Weights of pairs"
    yield ""
    yield (
        "Weights of samples (*without weights*: the same rows unweighted, so 1 would be no cost), all pairs of groups "
        "in one pass, DSAN's local MMD. DomainBed, DSAN and trVAE (as in scArches) are restated. Labels, groups and "
        "sample weights are given; what follows from them is computed in every step, except by dense versions: their W "
        "is ready."
    )
    yield ""
    yield from _table(report, cases, results, [name for name in OF_FORMS if name in took_part])
    yield ""


def _measured(report: Report) -> list[Result]:
    """What a table of cases has a line for: fastmmd's backends."""
    return [result for result in report.results if result.speedup or result.share is not None]


def _table(
    report: Report, cases: dict[str, Case], results: Sequence[Result], baselines: Sequence[str]
) -> Iterator[str]:
    versus = [f"x {name}" for name in baselines]
    yield from _head("case", "backend", "fwd + bwd", *versus, "share of torch.mm's rate", "extra memory", "over empty")
    for result in results:
        targets = report.targets(cases[result.case])
        floors = {
            NAIVE: targets.naive,
            DENSE: targets.dense,
            COMPILED: targets.compiled,
            WITHOUT_WEIGHTS: targets.unweighted,
            PER_PAIR: targets.per_pair,
            DSAN: targets.dsan,
        }
        others = {other.competitor: other for other in report.of(result.case)}
        yield _row(
            result.case,
            result.label,
            duration(result.seconds["both"]),
            *(_speedup(result, others.get(name), floors.get(name)) for name in baselines),
            spread_text(result.share, "{:.2f}") + _target(">=", targets.share),
            _memory(result) + _target("<", targets.extra_mib),
            duration(result.overhead) if result.overhead else "-",
        )


def _speedup(result: Result, other: Result | None, floor: float | None) -> str:
    if other is None:
        return "-"
    if other.competitor in result.speedup:
        return spread_text(result.speedup[other.competitor], "{:.3g}") + _target(">=", floor)
    return other.skipped if other.skipped and other.skipped.startswith(NEEDS) else "-"


def _everyone(report: Report) -> Iterator[str]:
    yield from _head("case", "competitor", *PHASES, "extra memory", "error of loss", "of gradient", "rounds")
    for r in report.results:
        if r.skipped:
            continue
        errors = _errors(r.errors)
        if r.wrong:
            limits = " and ".join(_errors(r.allowed))
            yield _row(r.case, r.label, f"**wrong: errors beyond {limits}**", *[""] * 4, *errors, "")
            continue
        times = [duration(r.seconds[phase]) for phase in PHASES]
        yield _row(r.case, r.label, *times, _memory(r), *errors, str(r.rounds))


def _errors(errors: Errors | None) -> tuple[str, str]:
    return ("-", "-") if errors is None else (f"{errors.loss:.1e}", f"{errors.gradient:.1e}")


def _memory(result: Result) -> str:
    return "-" if result.extra_bytes is None else f"{result.extra_bytes / MIB:.2f} MiB"


def _on_a_gpu(report: Report, cases: dict[str, Case]) -> Iterator[str]:
    """Times in a CUDA graph, and launches; nothing if neither was measured."""
    results = [result for result in report.results if result.graph or result.launches]
    if not results:
        return
    yield "## In a CUDA graph"
    yield ""
    yield (
        "Forward + backward, launched one by one and replayed from a CUDA graph, and how many kernels, copies and "
        "fills that takes. Every step reads the same inputs, so small ones come from the GPU's cache."
    )
    yield ""
    yield from _head("case", "competitor", "eager", "in a graph", "launches, forward", "forward + backward")
    for result in results:
        counts = [str(result.launches[phase]) if result.launches else "-" for phase in ("forward", "both")]
        target = report.targets(cases[result.case]).graph_us if result.speedup else None
        graph = duration(result.graph) + _target("<", target) if result.graph else "-"
        yield _row(result.case, result.label, duration(result.seconds["both"]), graph, *counts)
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
    yield from map(_step, report.training)
    yield ""


def _step(share: StepShare) -> str:
    percent = share.share and Spread(*[100 * value for value in share.share])
    step = duration(share.seconds) if share.seconds else share.skipped or "-"
    return _row(share.precision, share.loss, step, spread_text(percent, "{:.2g}"))


def _skipped(report: Report) -> Iterator[str]:
    """Who was not measured, and why: one line per reason."""
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
