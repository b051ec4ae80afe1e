"""The benchmark's rows on a GPU, as bench/gpu.py measures them in parts that fill one record.

    python -m bench.rows main --out gpu.json --seconds 120      main rows that the record lacks
    python -m bench.rows rest --out gpu.json --seconds 100      all rows that it lacks
    python -m bench.rows launches --out gpu.json --seconds 15   how many launches fastmmd takes, of what is measured

Each row is compared with fp64 before it is timed, and no other decides on it. The record is saved after every case. A
case in which the process crashes or hangs has failed, and the next process goes on behind it; at once, where a kernel
has left the device unusable.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench import environment, folder, measure, throughput
from bench.cases import Case, main_rows
from bench.competitors import FASTMMD, line_up
from bench.record import FAILED, NO_TIME, Report, Result

BACKENDS = ("auto", "cuda", "triton", "torch")
# Above one second a step the alternatives at N = 131072 would take minutes.
OPTIONS = ("--device", "cuda", "--backends", *BACKENDS, "--rounds", "7", "--seconds", "0.25", "--longest-step", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    end = time.monotonic() + options.seconds
    signal.signal(signal.SIGTERM, _end)
    device = torch.device("cuda", 0)
    report = Report.resume(options.out, environment.describe(device))
    report.checks = folder.checks(options.out.parent)
    if options.part == "launches":
        backends = [competitor for competitor in line_up(BACKENDS) if competitor.name.startswith(FASTMMD)]
        throughput.count_launches(report, throughput.select(device), backends, device, options.out, end)
        return 0
    if not measure_part(report, options.part, throughput.select(device), device, options.seconds, options.out):
        left = ("--out", str(options.out), "--seconds", f"{end - time.monotonic():.1f}")
        os.execv(sys.executable, [sys.executable, "-m", "bench.rows", options.part, *left])  # in a new process
    return int(any(result.wrong or result.failed for result in report.results))


def _end(*_: object) -> None:
    """Ends the process, once: a second signal must not interrupt what the first one saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def measure_part(
    report: Report, part: str, cases: Sequence[Case], device: torch.device, seconds: float, out: Path
) -> bool:
    """Fills and saves the report: "main" or "rest" of the cases. False: the device takes no more work."""
    end = time.monotonic() + seconds
    report.results = [result for result in report.results if result.skipped != NO_TIME]
    present = {result.case for result in report.results}
    options = throughput.command_line().parse_args(OPTIONS)
    report.settings = {name: value for name, value in vars(options).items() if name not in ("out", "minutes")}
    report.save(out)
    for case in cases:
        if case.name in present or (part == "main" and case not in main_rows()):
            continue
        options.minutes = (end - time.monotonic()) / 60
        try:
            with _unless_it_dies(report, case, out):
                throughput.measure_all(report, [case], device, options, out)
        except Exception as error:  # an unusable device fails whatever comes next, and the other rows must come
            report.results.append(Result(case.name, FASTMMD, f"{FAILED} {type(error).__name__}: {str(error)[:200]}"))
            report.save(out)
        if any(result.failed for result in report.of(case.name)) and not measure.usable(device):
            return False
    return True


@contextmanager
def _unless_it_dies(report: Report, case: Case, out: Path) -> Iterator[None]:
    """Within it the file says that the case has failed: what remains if the process crashes or hangs. A process that is
    asked to end takes it back."""
    results = report.results
    report.results = [*results, Result(case.name, FASTMMD, f"{FAILED} its process crashed or hung")]
    report.save(out)
    report.results = results
    try:
        yield
    finally:
        report.save(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("main", "rest", "launches"))
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--seconds", type=float, required=True, help="after these no further case starts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
