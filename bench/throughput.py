"""Measures fastmmd beside naive, dense, blocked and compiled PyTorch and the peers that are installed.

    python bench/throughput.py                  all cases, about fifteen minutes on two cores
    python bench/throughput.py --quick          a few small ones, under a minute
    python bench/throughput.py --device cuda
    python bench/throughput.py --out bench/results/cpu.json     the published results

Writes a JSON record, a Markdown table and plots, under runs/bench unless told otherwise. Each loss is first checked
against fp64; the exit status is 1 if one is wrong, and no time of that one is shown.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts allocations is otherwise talkative
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench import environment, measure, plots, yardsticks
from bench.cases import CASES, Case
from bench.competitors import FASTMMD, Competitor, Loss, line_up
from bench.gate import Gate
from bench.report import Report, Result, markdown
from fastmmd.dispatch import BACKENDS
from fastmmd.models.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
MATMUL, EMPTY = "torch.mm", "empty Function"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = [case for case in CASES if (case.quick or not options.quick) and options.cases in case.name]
    if not cases:
        parser.error(f"no case has {options.cases!r} in its name")
    competitors = line_up(options.backends)
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 7), min(options.seconds, 1.0)
    out = options.out or ROOT / "runs" / "bench" / f"{device.type}.json"

    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report = Report(environment.describe(device), settings, [])
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        report.results += run(case, competitors, device, options)
        report.save(out)  # what is measured is not lost if a later case fails
    table = markdown(report, {case.name: case for case in cases})
    with write_atomically(out.with_suffix(".md")) as file:
        file.write(table)
    plots.draw(report, {case.name: case for case in cases}, out)
    print(table)
    return 1 if any(result.red for result in report.results) else 0


def run(
    case: Case, competitors: Sequence[Competitor], device: torch.device, options: argparse.Namespace
) -> list[Result]:
    """Checks, then measures together, everyone who can take part in a case."""
    sources, targets = case.inputs(device)
    budget_bytes = options.memory_budget_gib * 2**30
    gate = Gate(case, sources, targets)
    results, steps = [], {}
    for competitor in competitors:
        result = Result(case.name, competitor.name, competitor.absent(case, device, budget_bytes))
        results.append(result)
        if result.skipped:
            continue
        loss = competitor.make(case)
        result.errors, result.allowed = gate.errors(loss, competitor.estimator, competitor.leniency)
        if result.red:
            continue
        peak = measure.peak_bytes(partial(_gradients, loss, sources, targets), device)
        result.extra_bytes = max(0, peak - case.gradient_bytes)
        steps[competitor.name] = measure.gradient_step(loss, sources, targets)
    yard = {
        MATMUL: yardsticks.matmul(sources, targets),
        EMPTY: measure.gradient_step(yardsticks.empty_function, sources, targets),
    }
    samples = measure.interleave({**steps, **yard}, device, options.rounds, options.seconds)
    for result in results:
        if result.competitor in steps:
            _fill(result, samples)
    return results


def _gradients(loss: Loss, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(sources, targets), [*sources, *targets])


def _fill(result: Result, samples: dict[str, measure.Samples]) -> None:
    own = samples[result.competitor]
    result.seconds = {phase: measure.Spread.of(values) for phase, values in own.items()}
    result.rounds = len(own["both"])
    if not result.competitor.startswith(FASTMMD):
        return
    bound = [yardsticks.PRODUCTS_PER_LAYER * seconds for seconds in samples[MATMUL]["both"]]
    result.share = measure.ratio(bound, own["both"])
    result.overhead = measure.difference(own["both"], samples[EMPTY]["both"])
    for name, other in samples.items():
        if name not in (result.competitor, MATMUL, EMPTY):
            result.speedup[name] = measure.ratio(other["both"], own["both"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--cases", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--backends", nargs="+", default=["auto"], choices=BACKENDS, help="fastmmd's (default: auto)")
    parser.add_argument("--rounds", type=int, default=15, help="at most (default: 15)")
    parser.add_argument("--seconds", type=float, default=4.0, help="at most, per competitor and case (default: 4)")
    parser.add_argument(
        "--memory-budget-gib", type=float, default=8.0, help="who needs more is skipped (default: 8)", metavar="GIB"
    )
    parser.add_argument("--out", type=Path, help="JSON; the others go beside it (default: runs/bench/DEVICE.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
