"""Everything about one GPU in one call: tests, then sanitizers, then the benchmark; for a machine without network.

    python bench/gpu.py --install               build and install this checkout first (nothing is downloaded); CUDA
                                                kernels for this GPU alone, unless FASTMMD_CUDA_ARCHS names others
    python bench/gpu.py --minutes 6 --out DIR   the default time; results to DIR (default: bench/results)

Needs a CUDA device, PyTorch for CUDA, Triton, pytest and numpy. Writes NAME.json and NAME.md, where NAME is the GPU's,
after every case; NAME-tests.txt and NAME-sanitizer.txt with what these said; and plots where matplotlib is installed.
If a test fails, nothing is timed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench import environment, throughput, training
from bench.report import Report

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_gpu.py", "-m", "gpu", "-q", "-p", "no:cacheprovider")
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_SECONDS = 90  # for each, and no more than a third of the time that is left; they run side by side
BACKENDS = ("auto", "cuda", "triton", "torch")
TRAINING_SECONDS = 25  # kept free for the training step and for counting launches


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    if (lack := missing()) is not None:
        print(f"cannot measure here: {lack}", file=sys.stderr)
        return 2
    if options.install:
        if (code := install(torch.cuda.get_device_capability())) != 0:
            return code
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
            seconds = min(SANITIZER_SECONDS, (end - time.monotonic()) / 3)
            outcomes = sanitize(out.with_name(f"{out.stem}-sanitizer.txt"), seconds)
            report.checks |= outcomes
            report.save(out)
            print(*(f"{check}: {outcome}" for check, outcome in outcomes.items()), sep="\n", flush=True)
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


def install(capability: tuple[int, int]) -> int:
    """pip's exit status. Prints what the build says of itself; all of it if that fails."""
    settings = dict(os.environ)
    if torch.version.hip is None and not settings.get("FASTMMD_CUDA_ARCHS"):
        settings["FASTMMD_CUDA_ARCHS"] = "{}{}".format(*capability)
    pip = (sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", str(ROOT))
    done = subprocess.run(pip, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = re.findall(r"^ *(fastmmd: .*)$", done.stdout, re.MULTILINE) if done.returncode == 0 else [done.stdout]
    print(*said, sep="\n", flush=True)
    return done.returncode


def run_tests(log: Path, seconds: float) -> tuple[bool, str]:
    """Whether all passed within `seconds`, and pytest's last line. In a process of its own: a fault on the device ends
    that one only."""
    workers = ()
    if importlib.util.find_spec("xdist"):  # most of the time kernels are compiled, one at a time a process
        workers = ("-n", str(max(1, min(8, (os.cpu_count() or 2) // 2))))
    code = finish([sys.executable, "-m", "pytest", *TESTS, *workers], log, seconds)
    if code is None:
        return False, f"FAILED: not finished in {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return code == 0, f"{'passed' if code == 0 else 'FAILED'}: {last.strip('= ')}"


def sanitize(log: Path, seconds: float) -> dict[str, str]:
    """How each tool of compute-sanitizer ends on a few small cases. Its absence or refusal is no failure: a driver may
    forbid it. The tools run side by side, `seconds` at most."""
    program = environment.tool("compute-sanitizer")
    if program is None:
        return {"compute-sanitizer": "not installed"}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(SANITIZERS)) as pool:
        logs = {name: Path(folder) / name for name in SANITIZERS}
        outcomes = pool.map(lambda name: _sanitize(program, name, logs[name], seconds), logs)
        found = {f"compute-sanitizer {name}": outcome for name, outcome in zip(logs, outcomes, strict=True)}
        log.write_text("".join(f"== {name}\n{path.read_text(errors='replace')}\n" for name, path in logs.items()))
    return found


def _sanitize(program: str, name: str, log: Path, seconds: float) -> str:
    command = [program, "--tool", name, "--error-exitcode", "86", sys.executable, "-m", "pytest", *TESTS]
    # Without torch's cache every tensor is an allocation of its own: an overrun leaves it, and new memory is new.
    settings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    code = finish([*command, "-k", "sanitizer"], log, seconds, settings)
    if code is None:
        return f"not finished in {seconds:.3g} s"
    lines = log.read_text(errors="replace").splitlines()
    words = [line.strip("= ") for line in lines if line.startswith("=====")][-1:] or [f"exit status {code}"]
    words += [line for line in lines if re.match(r"\d+ (passed|failed|skipped|error)", line)][-1:]
    return ("" if code in (0, 86) else "refused or failed: ") + "; ".join(words)


def finish(command: Sequence[str], log: Path, seconds: float, settings: Mapping[str, str] | None = None) -> int | None:
    """The exit status of a command whose output goes to `log`; None if it took too long, and then whatever it started
    is ended too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        options = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(command, cwd=ROOT, env=settings, **options)
        try:
            return process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measure(report: Report, device: torch.device, out: Path, end: float) -> None:
    left = (end - time.monotonic() - TRAINING_SECONDS) / 60
    arguments = ["--device", "cuda", "--backends", *BACKENDS, "--rounds", "9", "--seconds", "0.4"]
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
    parser.add_argument("--install", action="store_true", help="build and pip install this checkout first")
    return parser


if __name__ == "__main__":
    sys.exit(main())
