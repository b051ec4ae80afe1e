"""Everything about one GPU in one call: tests, then a sanitizer, then the benchmark; for a machine without network.

    python bench/gpu.py --install               build and install this checkout first (nothing is downloaded)
    python bench/gpu.py --minutes 6 --out DIR   the default time; results to DIR (default: bench/results)

Needs a CUDA device, PyTorch for CUDA, Triton, pytest and numpy. Writes NAME.json and NAME.md, where NAME is the GPU's,
after every case; NAME-tests.txt with the tests' output; and plots where matplotlib is installed. If a test fails,
nothing is timed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench import environment, throughput, training
from bench.report import Report

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_gpu.py", "-m", "gpu", "-q", "-p", "no:cacheprovider")
SANITIZER_SECONDS = 60
TRAINING_SECONDS = 25  # kept free for the training step and for counting launches


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    if (lack := missing()) is not None:
        print(f"cannot measure here: {lack}", file=sys.stderr)
        return 2
    if options.install:
        pip = (sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", str(ROOT))
        subprocess.run(pip, check=True)
        again = [argument for argument in arguments if argument != "--install"]
        os.execv(sys.executable, [sys.executable, __file__, *again])  # with the new build
    end = time.monotonic() + 60 * options.minutes
    device = torch.device("cuda", torch.cuda.current_device())
    report = Report(environment.describe(device), {"minutes": options.minutes}, [])
    report.environment["revision"] = report.environment["revision"] or options.revision
    out = options.out / (re.sub(r"[^a-z0-9]+", "-", report.environment["gpu"].lower()).strip("-") + ".json")
    for key, value in report.environment.items():
        print(f"{key + ':':18} {value}", flush=True)
    report.save(out)

    return examine(report, device, out, end)


def examine(report: Report, device: torch.device, out: Path, end: float) -> int:
    """Tests, sanitizer, benchmark, until `end`; saves what there is after each part."""
    try:
        passed, report.checks["tests"] = run_tests(out.with_name(f"{out.stem}-tests.txt"), end - time.monotonic())
        report.save(out)
        print(report.checks["tests"], flush=True)
        if passed:
            report.checks["compute-sanitizer"] = sanitize()
            report.save(out)
            print(report.checks["compute-sanitizer"], flush=True)
            measure(report, device, out, end)
    finally:  # what was measured before a fault of the device still makes a table
        print(throughput.publish(report, out))
    return 0 if passed and not any(result.red or result.failed for result in report.results) else 1


def missing() -> str | None:
    """What this machine lacks; None if nothing."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else " (this PyTorch is built without CUDA)"
        return f"no CUDA device{built}. It takes a GPU of compute capability 8.0 or above and PyTorch for CUDA."
    lacking = [package for package in ("triton", "pytest", "numpy") if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def run_tests(log: Path, seconds: float) -> tuple[bool, str]:
    """Whether all passed within `seconds`, and pytest's last line. In a process of its own: a fault on the device ends
    that one only."""
    workers = ()
    if importlib.util.find_spec("xdist"):  # most of the time kernels are compiled, one at a time a process
        workers = ("-n", str(max(1, min(8, (os.cpu_count() or 2) // 2))))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        command = [sys.executable, "-m", "pytest", *TESTS, *workers]
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            return False, f"FAILED: not finished in {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return code == 0, f"{'passed' if code == 0 else 'FAILED'}: {last.strip('= ')}"


def sanitize() -> str:
    """How memcheck of a few small cases ends. Its absence or refusal is no failure: a driver may forbid it."""
    if shutil.which("compute-sanitizer") is None:
        return "not installed"
    command = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "86", sys.executable, "-m", "pytest")
    # Without torch's cache every tensor is an allocation of its own, and an overrun leaves it.
    settings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        found = subprocess.run(
            [*command, *TESTS, "-k", "sanitizer"],
            cwd=ROOT,
            env=settings,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SANITIZER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"memcheck not finished in {SANITIZER_SECONDS} s"
    lines = [line.strip("= ") for line in (found.stdout + found.stderr).splitlines() if line.startswith("=====")]
    summary = lines[-1] if lines else f"exit status {found.returncode}"
    return f"memcheck: {summary}" if found.returncode in (0, 86) else f"memcheck refused or failed: {summary}"


def measure(report: Report, device: torch.device, out: Path, end: float) -> None:
    left = (end - time.monotonic() - TRAINING_SECONDS) / 60
    arguments = ["--device", "cuda", "--backends", "auto", "torch", "--rounds", "9", "--seconds", "0.4"]
    options = throughput.command_line().parse_args([*arguments, "--minutes", f"{max(left, 0.1):.2f}"])
    report.settings |= {name: value for name, value in vars(options).items() if name != "out"}
    for share in training.shares(device, options.rounds, seconds=1.0):
        report.training.append(share)
        report.save(out)
    throughput.measure_all(report, throughput.select(device), device, options, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of it, after installation (default: 6)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder (default: bench/results)")
    parser.add_argument("--revision", help="of git, for a copy of the checkout without .git")
    parser.add_argument("--install", action="store_true", help="pip install this checkout first, without downloads")
    return parser


if __name__ == "__main__":
    sys.exit(main())
