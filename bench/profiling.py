"""What each kernel of a loss and its gradients does with the GPU: time, pipes, issue slots, bytes.

    python -m bench.profiling --out profile.json --seconds 35

Nsight Compute (ncu) reads the GPU's counters; clocks are left as they are. Where it is missing or refused,
torch.profiler gives the times alone, and the record says so. One forward and backward of each of `PROFILED` is looked
at, after another that compiles and warms up.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench import environment, measure
from bench.cases import CASES, Case
from bench.competitors import line_up
from fastmmd import dispatch
from fastmmd.models.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NCU, TORCH = "ncu", "torch.profiler"
MOST_KERNELS = 80
NCU_SHARE = 0.75  # of the time: the rest is for torch.profiler, where ncu fails
PROFILED = (  # case, backend; the most important first
    ("JMMD 36+36, d 256 x 31", "cuda"),
    ("JMMD 4096+4096, d 256 x 8, bf16", "triton"),
    ("JMMD 4096+4096, d 256 x 8, bf16", "cuda"),
    ("JMMD 64+64, d 2048 x 8", "cuda"),
    ("MMD 4096+4096, d 2048, tf32", "triton"),
    ("JMMD 4096+4096, d 256 x 8, tf32", "triton"),
    ("JMMD 36+36, d 256 x 31", "triton"),
    ("JMMD 4096+4096, d 256 x 8, tf32", "cuda"),
    ("MMD 4096+4096, d 2048, bf16", "triton"),
    ("JMMD 64+64, d 2048 x 8", "triton"),
)
# The GPU's counters of each quantity: the first that it has, or the sum of several.
ACTIVE = "avg.pct_of_peak_sustained_active"
METRICS: dict[str, tuple[tuple[str, ...], ...]] = {
    "seconds": (("gpu__time_duration.sum",),),
    "tensor": ((f"sm__pipe_tensor_cycles_active.{ACTIVE}",), (f"sm__inst_executed_pipe_tensor.{ACTIVE}",)),
    "fp32": ((f"sm__pipe_fma_cycles_active.{ACTIVE}",), (f"sm__inst_executed_pipe_fma.{ACTIVE}",)),
    "issue": ((f"sm__inst_issued.{ACTIVE}",), (f"smsp__issue_active.{ACTIVE}",)),
    "memory_bytes": (("dram__bytes.sum",), ("dram__bytes_read.sum", "dram__bytes_write.sum")),
    "l2_bytes": (("lts__t_bytes.sum",),),
}
SECONDS = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1, "second": 1}
UNITS = SECONDS | {"%": 0.01, "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}  # as ncu writes them


@dataclass
class Kernel:
    """One kernel within a loss and its gradients.

    seconds: of all its launches.
    tensor, fp32, issue: share of the tensor cores' and fp32 pipes' peak, and of the issue slots, while an SM is active;
        mean over launches, weighted by time. None: not read.
    memory_bytes, l2_bytes: moved, by all launches. None: not read.
    """

    case: str
    backend: str
    kernel: str
    launches: int
    seconds: float | None = None
    tensor: float | None = None
    fp32: float | None = None
    issue: float | None = None
    memory_bytes: float | None = None
    l2_bytes: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.program:
        program(options.seconds)
        return 0
    record: dict[str, Any] = {"environment": environment.describe(torch.device("cuda", 0)), "kernels": []}
    begin = time.monotonic()
    kernels, refusal = with_ncu(NCU_SHARE * options.seconds)
    record |= {"tool": NCU if kernels else TORCH, "refusal": refusal}
    if kernels:
        record["kernels"] = [asdict(kernel) for kernel in kernels]
        save(record, options.out)
    else:
        print(f"{refusal}; {TORCH} gives the times alone", flush=True)
        for kernel in with_torch(begin + options.seconds):
            record["kernels"].append(asdict(kernel))
            save(record, options.out)
    print(*table(record), sep="\n", flush=True)
    return 0


def save(record: Mapping[str, Any], out: Path) -> None:
    with write_atomically(out) as file:
        file.write(json.dumps(record, indent=1) + "\n")


# The program that is profiled ----------------------------------------------------------------------------------------


def program(seconds: float) -> None:
    """Runs what is profiled, as much as there is time for. ncu prints once it has ended."""
    end = time.monotonic() + seconds
    for position, step in steps():
        if time.monotonic() > end:
            return
        step()
        torch.cuda.synchronize()
        with _labelled(position), _counted():
            step()
            torch.cuda.synchronize()


def steps() -> Iterator[tuple[int, Callable[[], object]]]:
    """The position in PROFILED, and one forward and backward of it, of those backends that run here."""
    device = torch.device("cuda", 0)
    by_name: dict[str, Case] = {case.name: case for case in CASES}
    for position, (name, backend) in enumerate(PROFILED):
        if dispatch.unavailable(backend, device) is None:
            yield position, _step(by_name[name], backend, device)


def _step(case: Case, backend: str, device: torch.device) -> Callable[[], object]:
    sources, targets = case.inputs(device)
    loss = line_up((backend,))[0].make(case)

    def step() -> object:
        with measure.torch_products(case.precision):
            return torch.autograd.grad(loss(sources, targets), [*sources, *targets])

    return step


@contextmanager
def _labelled(position: int) -> Iterator[None]:
    # Not push and pop, which are a thread's own: backward runs in one of autograd's.
    handle = torch.cuda.nvtx.range_start(label(position))
    try:
        yield
    finally:
        torch.cuda.nvtx.range_end(handle)


def _counted() -> AbstractContextManager[None]:
    """Within it ncu's --profile-from-start off is lifted."""
    return torch.cuda.profiler.profile()  # type: ignore[no-any-return, no-untyped-call]


def label(position: int) -> str:
    return f"fastmmd-profiled-{position}-"


# Nsight Compute ------------------------------------------------------------------------------------------------------


def with_ncu(seconds: float) -> tuple[list[Kernel], str | None]:
    """Kernels as ncu counts them; none of them, and why, if it can't."""
    tool = environment.tool(NCU)
    if tool is None:
        return [], "ncu is not installed"
    metrics = ",".join(name for choices in METRICS.values() for names in choices for name in names)
    output_options = ["--csv", "--print-units", "base", "--nvtx"]
    counting = ["--clock-control", "none", "--profile-from-start", "off", "--launch-count", str(MOST_KERNELS)]
    profiled = [sys.executable, "-m", "bench.profiling", "--program", "--seconds", f"{0.3 * seconds:.1f}"]
    command = [tool, *output_options, *counting, "--metrics", metrics, *profiled]
    with tempfile.TemporaryFile("w+") as output:
        options: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        try:
            with subprocess.Popen(command, cwd=ROOT, **options) as process:
                try:
                    ending = f"ncu ended with status {process.wait(seconds)}"
                except subprocess.TimeoutExpired:
                    ending = f"ncu did not end in {seconds:.0f} s"
                    os.killpg(process.pid, signal.SIGKILL)  # the program too
        except OSError as error:
            ending = f"ncu did not start: {error}"
        output.seek(0)
        text = output.read()
    kernels = parse(text)
    if kernels:
        return kernels, None
    errors = [line.removeprefix("==ERROR==").strip() for line in text.splitlines() if line.startswith("==ERROR==")]
    return [], "; ".join([ending, *errors[:2]])


def parse(text: str) -> list[Kernel]:
    """The kernels of ncu's CSV output, which has one line per launch and metric, in the order of their first launch."""
    csv_text = text[text.find('"ID"') :] if '"ID"' in text else ""
    launches: dict[str, dict[str, float]] = {}
    of_launch: dict[str, tuple[int | None, str]] = {}
    for cells in csv.DictReader(io.StringIO(csv_text)):
        if not cells.get("Metric Name") or not cells.get("Kernel Name"):
            continue
        number = cells["ID"]
        of_launch[number] = _position(cells), cells["Kernel Name"]
        if (value := _value(cells.get("Metric Value") or "", cells.get("Metric Unit") or "")) is not None:
            launches.setdefault(number, {})[cells["Metric Name"]] = value
    groups: dict[tuple[int | None, str], list[dict[str, float | None]]] = {}
    for number, metrics in launches.items():
        groups.setdefault(of_launch[number], []).append({name: _quantity(name, metrics) for name in METRICS})
    return [_kernel(position, kernel, quantities) for (position, kernel), quantities in groups.items()]


def _position(cells: Mapping[str | None, Any]) -> int | None:
    """Which of PROFILED a launch belongs to: its label is in one of the columns for NVTX ranges."""
    row = " ".join(str(value) for value in cells.values())
    return next((position for position in range(len(PROFILED)) if label(position) in row), None)


def _value(text: str, unit: str) -> float | None:
    try:
        return float(text.replace(",", "")) * UNITS.get(unit, 1.0)
    except ValueError:  # "n/a": a metric that the GPU does not have
        return None


def _quantity(name: str, metrics: Mapping[str, float]) -> float | None:
    for names in METRICS[name]:
        if all(metric in metrics for metric in names):
            return sum(metrics[metric] for metric in names)
    return None


def _kernel(position: int | None, kernel: str, launches: Sequence[Mapping[str, float | None]]) -> Kernel:
    case, backend = PROFILED[position] if position is not None else ("?", "?")
    weights = [launch["seconds"] or 0.0 for launch in launches]

    def total(name: str) -> float | None:
        values = [launch[name] for launch in launches]
        return None if None in values else sum(value for value in values if value is not None)

    def mean(name: str) -> float | None:
        values = [launch[name] for launch in launches]
        if None in values or not sum(weights):
            return None
        return sum(w * (value or 0.0) for w, value in zip(weights, values, strict=True)) / sum(weights)

    return Kernel(
        case,
        backend,
        kernel,
        launches=len(launches),
        seconds=total("seconds"),
        tensor=mean("tensor"),
        fp32=mean("fp32"),
        issue=mean("issue"),
        memory_bytes=total("memory_bytes"),
        l2_bytes=total("l2_bytes"),
    )


# torch.profiler ------------------------------------------------------------------------------------------------------


def with_torch(deadline: float) -> Iterator[Kernel]:
    """The kernels of each step with their times, until the deadline."""
    for position, step in steps():
        if time.monotonic() > deadline:
            return
        step()
        torch.cuda.synchronize()
        times: dict[str, list[float]] = {}
        for name, seconds in measure.kernel_times(step):
            times.setdefault(name, []).append(seconds)
        for name, seconds_of in times.items():
            case, backend = PROFILED[position]
            yield Kernel(case, backend, name, launches=len(seconds_of), seconds=sum(seconds_of))


# What is printed -----------------------------------------------------------------------------------------------------


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """The record as Markdown."""
    if record["refusal"]:
        yield f"Times by {record['tool']} alone: {record['refusal']}."
        yield ""
    yield "| case | backend | kernel | launches | us | tensor, % | fp32, % | issue slots, % | memory, MB | L2, MB |"
    yield "|" + " --- |" * 10
    for data in record["kernels"]:
        kernel = Kernel(**data)
        numbers = (
            (kernel.seconds, 1e6),
            (kernel.tensor, 100),
            (kernel.fp32, 100),
            (kernel.issue, 100),
            (kernel.memory_bytes, 1e-6),
            (kernel.l2_bytes, 1e-6),
        )
        cells = ["-" if value is None else f"{scale * value:.3g}" for value, scale in numbers]
        name = kernel.kernel.replace("|", "\\|")[:80]
        yield f"| {kernel.case} | {kernel.backend} | {name} | {kernel.launches} | {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "profile.json", help="(default: runs/profile.json)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of it (default: 60)")
    parser.add_argument("--program", action="store_true", help="run what is profiled (internal)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
