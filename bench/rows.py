"""The benchmark's rows on a GPU, as bench/gpu.py measures them in parts that fill one record.

    python -m bench.rows main --out gpu.json --seconds 120      the main rows, anew
    python -m bench.rows rest --out gpu.json --seconds 100      those that the record lacks
    python -m bench.rows launches --out gpu.json --seconds 15   how many launches fastmmd takes, of what is measured

Each row is compared with fp64 before it is timed, and no other decides on it. The record is saved after every case.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import environment, folder, throughput
from bench.cases import Case, main_rows
from bench.competitors import FASTMMD, line_up
from bench.report import NO_TIME, Report

BACKENDS = ("auto", "cuda", "triton", "torch")
# Above one second a step the alternatives at N = 131072 would take minutes.
OPTIONS = ("--device", "cuda", "--backends", *BACKENDS, "--rounds", "7", "--seconds", "0.25", "--longest-step", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device("cuda", 0)
    report = Report.resume(options.out, environment.describe(device))
    report.checks = folder.checks(options.out.parent)
    measure(report, options.part, throughput.select(device), device, options.seconds, options.out)
    return int(any(result.red or result.failed for result in report.results))


def measure(report: Report, part: str, cases: Sequence[Case], device: torch.device, seconds: float, out: Path) -> None:
    """Fills and saves the report: "main", "rest" or "launches" of the cases."""
    if part == "launches":
        own = [competitor for competitor in line_up(BACKENDS) if competitor.name.startswith(FASTMMD)]
        throughput.count_launches(report, cases, own, device, out, time.monotonic() + seconds)
        return
    report.results = [result for result in report.results if result.skipped != NO_TIME]
    present = {result.case for result in report.results}
    main = [case for case in cases if case in main_rows()]
    chosen = main if part == "main" else [case for case in cases if case.name not in present]
    report.results = [result for result in report.results if result.case not in {case.name for case in chosen}]
    options = throughput.command_line().parse_args([*OPTIONS, "--minutes", f"{seconds / 60:.3f}"])
    report.settings = {name: value for name, value in vars(options).items() if name not in ("out", "minutes")}
    throughput.measure_all(report, chosen, device, options, out)
    report.save(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("main", "rest", "launches"))
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--seconds", type=float, required=True, help="after these no further case starts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
