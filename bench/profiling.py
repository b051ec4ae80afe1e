"""What each kernel of a loss and its gradients does with the GPU: time, pipes, issue slots, bytes.

    python -m bench.profiling --out profile.json --seconds 35

Nsight Compute (ncu) reads the GPU's counters; clocks are left as they are. Where it is missing or refused,
torch.profiler gives the times alone, and the record says so. One forward and backward of each of `PROFILED` is looked
at, after another that compiles and warms up.
"""

from __future__ import annotations

import argparse
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

from bench import environment, measure, nsight
from bench.cases import CASES, Case
from bench.competitors import line_up
from bench.nsight import NCU, Launches
from fastmmd import dispatch
from fastmmd.models.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch.profiler"
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
    program = [sys.executable, "-m", "bench.profiling", "--program", "--seconds", f"{0.3 * seconds:.1f}"]
    with tempfile.TemporaryFile("w+") as output:
        try:
            with subprocess.Popen(
                nsight.command(tool, program),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process:
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
    return [], "; ".join([ending, *nsight.errors(text)[:2]])


def parse(text: str) -> list[Kernel]:
    """The kernels of ncu's output, in the order of their first launch."""
    labels = [label(position) for position in range(len(PROFILED))]
    return [_kernel(launches) for launches in nsight.parse(text, labels)]


def _kernel(launches: Launches) -> Kernel:
    case, backend = PROFILED[launches.label] if launches.label is not None else ("?", "?")
    return Kernel(
        case,
        backend,
        launches.kernel,
        launches=len(launches.quantities),
        seconds=launches.total("seconds"),
        tensor=launches.mean("tensor"),
        fp32=launches.mean("fp32"),
        issue=launches.mean("issue"),
        memory_bytes=launches.total("memory_bytes"),
        l2_bytes=launches.total("l2_bytes"),
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
