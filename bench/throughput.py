"""Measures fastmmd beside naive, dense, blocked and compiled PyTorch and the peers that are installed.

    python bench/throughput.py                  all cases, about half an hour on two cores
    python bench/throughput.py --quick          a few small ones, under a minute
    python bench/throughput.py --device cuda    with those for a GPU; bench/gpu.py does more, in a fixed time
    python bench/throughput.py --out bench/results/cpu.json     the published results

Writes a JSON record, a Markdown table and plots, under runs/bench unless told otherwise. Each loss is first checked
against fp64; the exit status is 1 if one is wrong or fails, and no time of that one is shown.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts allocations is otherwise talkative
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench import environment, measure, yardsticks
from bench.cases import CASES, Case, Loss, main_rows
from bench.competitors import FASTMMD, OTHER_LOSS, Competitor, automatic, line_up
from bench.gate import Gate
from bench.record import FAILED, NO_TIME, Report, Result
from bench.report import markdown
from fastmmd.dispatch import NAMES
from fastmmd.models.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
MATMUL, EMPTY, GRAPH = "torch.mm", "empty Function", " in a CUDA graph"
GRAPH_ROWS = 4096  # up to here launches cost a GPU enough to be looked at: replayed from a graph, and counted


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line()
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = select(device, options.quick, options.cases)
    if not cases:
        parser.error(f"no case has one of {options.cases} in its name")
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 7), min(options.seconds, 1.0)
    out = options.out or ROOT / "runs" / "bench" / f"{device.type}.json"

    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report = Report(environment.describe(device), settings, [])
    measure_all(report, cases, device, options, out)
    if device.type == "cuda":
        count_launches(report, cases, line_up(options.backends), device, out)
    print(publish(report, out))
    return 1 if any(result.wrong or result.failed for result in report.results) else 0


def select(device: torch.device, quick: bool = False, texts: Sequence[str] = ("",)) -> list[Case]:
    """The cases for a device. On a GPU, where time can be short, the main rows come first, then those whose targets
    differ from the common ones."""
    cases = [
        case
        for case in CASES
        if (case.quick or not quick)
        and any(text in case.name for text in texts)
        and (device.type == "cuda" or not case.gpu)
    ]
    if device.type != "cuda":
        return cases
    main = [case for case in main_rows() if case in cases]
    others = [case for case in cases if case not in main]
    return main + sorted(others, key=lambda case: case.gpu_targets == Case.gpu_targets)


def measure_all(
    report: Report, cases: Sequence[Case], device: torch.device, options: argparse.Namespace, out: Path
) -> None:
    """Fills and saves the report, case by case: what is measured is not lost if a later one fails."""
    deadline = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    competitors = line_up(options.backends)
    for case in cases:
        if time.monotonic() > deadline:
            report.results += [Result(case.name, c.name, NO_TIME) for c in competitors]
            continue
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        with measure.torch_products(case.precision):
            results = run(case, competitors, device, options)
        report.results += results
        report.save(out)
        print(*(f"    {result.line}" for result in results), sep="\n", file=sys.stderr, flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def publish(report: Report, out: Path) -> str:
    """Writes the table and, where matplotlib is installed, the plots beside the record. Returns the table."""
    cases = report.cases()
    table = markdown(report, cases)
    with write_atomically(out.with_suffix(".md")) as file:
        file.write(table)
    try:
        from bench import plots
    except ModuleNotFoundError as missing:
        print(f"no plots without {missing.name}; later: python -m bench.plots {out.name}", file=sys.stderr)
    else:
        plots.draw(report, cases, out)
    return table


def run(
    case: Case, competitors: Sequence[Competitor], device: torch.device, options: argparse.Namespace
) -> list[Result]:
    """Checks, then measures together, everyone who can take part in a case."""
    sources, targets = case.inputs(device)
    budget_bytes = _budget_bytes(options.memory_budget_gib, device)
    gate = Gate(case, sources, targets)
    results: list[Result] = []
    steps: dict[str, measure.Step] = {}
    for competitor in competitors:
        result = Result(case.name, competitor.name, competitor.absent(case, device, budget_bytes))
        if competitor.name == FASTMMD:
            result.backend = automatic(case, device)
        if result.skipped == OTHER_LOSS:
            continue
        results.append(result)
        if result.skipped:
            continue
        try:
            loss = competitor.make(case)
            result.errors, result.allowed = gate.errors(loss, competitor.estimator, competitor.leniency)
            if result.wrong:
                continue
            begin = time.perf_counter()
            peak = measure.peak_bytes(partial(_gradients, loss, sources, targets), device)
            measure.clock(device).settle()
            if (seconds := time.perf_counter() - begin) > options.longest_step:
                result.skipped = f"a step takes {seconds:.1f} s"
                continue
            result.extra_bytes = max(0, peak - case.gradient_bytes)
            steps[competitor.name] = measure.gradient_step(loss, sources, targets)
            if device.type == "cuda" and case.n <= GRAPH_ROWS and competitor.capturable:
                steps |= _in_a_graph(competitor, loss, sources, targets, device)
        except Exception as error:  # out of memory, a compiler's complaint: the others are still worth measuring
            steps.pop(competitor.name, None)
            result.skipped = f"{FAILED} {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    steps[MATMUL] = yardsticks.matmul(sources, targets, case.precision)
    steps[EMPTY] = measure.gradient_step(yardsticks.empty_function, sources, targets)
    samples = measure.interleave(steps, device, options.rounds, options.seconds)
    for result in results:
        if result.competitor in steps:
            _fill(result, samples)
    return results


def _in_a_graph(
    competitor: Competitor, loss: Loss, sources: Sequence[Tensor], targets: Sequence[Tensor], device: torch.device
) -> dict[str, measure.Step]:
    """The step replayed from a CUDA graph, by its name; none if it can't be captured, which costs the eager one
    nothing."""
    try:
        return {competitor.name + GRAPH: measure.graph_step(loss, sources, targets)}
    except Exception as error:
        if not measure.usable(device):
            raise
        print(f"{competitor.name}{GRAPH}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr, flush=True)
        return {}


def count_launches(
    report: Report,
    cases: Sequence[Case],
    competitors: Sequence[Competitor],
    device: torch.device,
    out: Path,
    deadline: float = float("inf"),
) -> None:
    """Adds to what was measured how many launches it takes, up to some number of rows; saves case by case. This process
    must time nothing afterwards (`measure.launches`)."""
    for case in cases:
        measured = {result.competitor: result for result in report.of(case.name) if result.seconds}
        if case.n > GRAPH_ROWS or not measured or time.monotonic() > deadline:
            continue
        sources, targets = case.inputs(device)
        for competitor in competitors:
            if competitor.name not in measured:
                continue
            loss = competitor.make(case)
            with measure.torch_products(case.precision):
                _gradients(loss, sources, targets)  # compiled again
                measured[competitor.name].launches = {
                    "forward": measure.launches(partial(loss, sources, targets)),
                    "both": measure.launches(partial(_gradients, loss, sources, targets)),
                }
        report.save(out)


def _gradients(loss: Loss, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(sources, targets), [*sources, *targets])


def _budget_bytes(gib: float | None, device: torch.device) -> float:
    if gib is not None:
        return gib * 2**30
    return torch.cuda.get_device_properties(device).total_memory / 2 if device.type == "cuda" else 8 * 2**30


def _fill(result: Result, samples: dict[str, measure.Samples]) -> None:
    phases = samples[result.competitor]
    result.seconds = {phase: measure.Spread.of(values) for phase, values in phases.items()}
    result.rounds = len(phases["both"])
    if result.competitor + GRAPH in samples:
        result.graph = measure.Spread.of(samples[result.competitor + GRAPH]["both"])
    if not result.competitor.startswith(FASTMMD):
        return
    bound = [yardsticks.PRODUCTS_PER_LAYER * seconds for seconds in samples[MATMUL]["both"]]
    result.share = measure.ratio(bound, phases["both"])
    result.overhead = measure.difference(phases["both"], samples[EMPTY]["both"])
    for name, other in samples.items():
        if name not in (result.competitor, MATMUL, EMPTY) and not name.endswith(GRAPH):
            result.speedup[name] = measure.ratio(other["both"], phases["both"])


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="TEXT", help="only cases whose name contains one of these"
    )
    parser.add_argument("--backends", nargs="+", default=["auto"], choices=NAMES, help="fastmmd's (default: auto)")
    parser.add_argument("--rounds", type=int, default=15, help="at most (default: 15)")
    parser.add_argument("--seconds", type=float, default=4.0, help="at most, per competitor and case (default: 4)")
    parser.add_argument("--minutes", type=float, help="after these no further case starts (default: all are measured)")
    parser.add_argument(
        "--longest-step",
        type=float,
        default=float("inf"),
        help="who takes more seconds for one forward and backward is not measured (default: all are)",
        metavar="SECONDS",
    )
    parser.add_argument(
        "--memory-budget-gib",
        type=float,
        help="who needs more is skipped (default: 8, or half of a GPU's memory)",
        metavar="GIB",
    )
    parser.add_argument("--out", type=Path, help="JSON; the others go beside it (default: runs/bench/DEVICE.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
