"""Loss and gradients of every route, product format and input dtype against fp64, one JSON line per value as it comes.

    python -m bench.values --out values.jsonl                                   on a GPU
    python -m bench.values --out values.jsonl --device cpu --routes torch cpu   some routes, on another device

Routes run side by side, each in a process of its own: where a kernel crashes, hangs or leaves the device unusable, that
value fails, and a new process goes on with the next. The routes of backend "cuda" come first: they compile nothing.

A line holds route, format, dtype and sizes; the errors of the loss (absolute; kernels are of size 1 to 5), with and
without gradients, and of the gradients (relative, of the worst input); what is allowed of each; and "right". Or it says
why a value "failed", or why a route is "absent". The last line counts them. The exit status is 1 if any is not right.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bench import measure
from bench.candidates import forced, table_of
from bench.cases import JAN, Case
from bench.gate import reference
from fastmmd import discrepancy, dispatch
from fastmmd.backends import cuda, triton

if TYPE_CHECKING:
    from bench.candidates import Config

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 40.0  # seconds for one value, compilation included
MOST_CRASHES = 5  # of the processes of one route
UNUSABLE = 3  # the exit status of a process whose device takes no more work

# Workspaces of 64 x 64 pairs of two layers, parts, chunks and tiles that are ragged and several at a hundred rows.
CUDA_ROUTES: dict[str, Config] = {
    "cuda-small": cuda.Small(part_features=64, chunk=32),
    "cuda-small64": cuda.Small(part_features=100, chunk=64),
    "cuda-tiles": cuda.Tiles(blocks=1, buffers=1),
    "cuda-tiles2": cuda.Tiles(blocks=9, buffers=2),
    "cuda-blocks": cuda.Blocks(workspace_bytes=4 * 2 * 64 * 64),
}
BACKENDS = ("cuda", "torch", "triton", "cpu")  # routes as the launch tables choose them
GPU_BACKENDS = BACKENDS[:3]
WEIGHTS = (0.3, 0.1)  # of the marginal terms, beside the joint one

FORCED_SIZES = ((33, 70, (70, 8)), (1, 2, (70, 8)), (257, 31, (70, 8)))
TABLE_SIZES = (
    (64, 60, (256, 31)),
    (36, 36, (256, 31)),
    (2100, 2050, (256, 8)),
    (300, 1000, (2048, 8)),
    (31, 1, (37, 5)),
)
PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")
KINDS = (  # product format asked for, dtype of the inputs; the usual ones first
    *((precision, torch.float32) for precision in PRECISIONS),
    ("ieee", torch.bfloat16),
    ("tf32", torch.float16),
    ("ieee", torch.float64),
    ("bf16", torch.bfloat16),
    ("ieee", torch.float16),
    *((precision, torch.bfloat16) for precision in ("tf32", "tf32x3")),
    *((precision, torch.float16) for precision in ("bf16", "tf32x3")),
)
# Errors of the loss (times the size of a kernel) and of the gradients.
ALLOWED = {"ieee": 5e-6, "tf32x3": 1e-5, "tf32": 4e-3, "bf16": 3e-2}
ALLOWED_FP64 = 1e-11
ROUNDING = {torch.bfloat16: 6e-3, torch.float16: 1e-3}  # of gradients, which are returned in the dtype of the inputs


class Variant(NamedTuple):
    """One value to compute. sizes: rows of source and target, features of each layer."""

    route: str
    precision: str
    dtype: torch.dtype
    sizes: tuple[int, int, tuple[int, ...]]

    def described(self) -> dict[str, Any]:
        n, m, dims = self.sizes
        dtype = str(self.dtype).removeprefix("torch.")
        return {"route": self.route, "precision": self.precision, "dtype": dtype, "n": n, "m": m, "dims": dims}


def configs() -> dict[str, Config]:
    """The configurations of forced routes, by name; Triton's only where it is installed."""
    if triton.version() is None:
        return CUDA_ROUTES
    from fastmmd.kernels import blocks, small, tiles

    return CUDA_ROUTES | {
        "triton-small": small.Config(tile=32, features=32, chunk=64, part_features=64, max_parts=3, warps=8, stages=2),
        "triton-tiles": tiles.Config(tile=64, columns=32, warps=8, stages=2),
        "triton-tiles128": tiles.Config(tile=128, columns=32, warps=8, stages=2),
        "triton-blocks": blocks.Config(tile=32, warps=4, workspace_bytes=4 * 2 * 64 * 64),
    }


def backend_of(route: str) -> str:
    return route.split("-")[0]


def route_names(backends: Sequence[str] = GPU_BACKENDS) -> list[str]:
    """Forced routes of each backend, then the backend by its table."""
    return [
        name
        for backend in backends
        for name in (*(route for route in configs() if backend_of(route) == backend), backend)
    ]


def taking(route: str) -> AbstractContextManager[None]:
    """Within it the backend of a forced route takes that."""
    config = configs().get(route)
    if config is None:
        return nullcontext()
    return forced(table_of(backend_of(route)).TABLE[0]._replace(config=config))


def variants(route: str) -> list[Variant]:
    """What is computed of a route, the usual kinds first. Tiles have no fp64."""
    is_forced = route in configs()
    return [
        Variant(route, precision, dtype, sizes)
        for precision, dtype in KINDS
        for sizes in (FORCED_SIZES if is_forced else TABLE_SIZES)
        if not ("tiles" in route and dtype == torch.float64)
    ]


def evaluate(variant: Variant, device: torch.device) -> dict[str, Any]:
    """A variant's line: errors and whether they are allowed, or why it failed."""
    line = variant.described()
    begin = time.perf_counter()
    try:
        line |= errors(variant, device)
    except Exception as error:  # whatever a compiler or a driver says
        line |= {"right": False, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return line | {"seconds": round(time.perf_counter() - begin, 3)}


def errors(variant: Variant, device: torch.device) -> dict[str, Any]:
    sources, targets = _inputs(variant.sizes, variant.dtype, device)
    inputs = [*sources, *targets]
    backend = backend_of(variant.route)
    kernels = JAN[: len(sources)]
    options: dict[str, Any] = {"marginal": WEIGHTS[: len(sources)], "backend": backend, "precision": variant.precision}
    with taking(variant.route):
        loss = discrepancy(sources, targets, kernels, **options).loss
        scale = float(min(variant.sizes[:2]))  # as mixed-precision training scales them, so that fp16 can hold them
        gradients = torch.autograd.grad(loss, inputs, torch.full_like(loss, scale))
        with torch.no_grad():
            evaluated = discrepancy(sources, targets, kernels, **options).loss
    exact, exact_gradients = _truth(variant.sizes, variant.dtype, device)
    of_losses = [abs(value.item() - exact.item()) for value in (loss, evaluated)]
    of_gradients = max(
        ((gradient.double() / scale - truth).norm() / truth.norm()).item()
        for gradient, truth in zip(gradients, exact_gradients, strict=True)
    )
    allowed = ALLOWED_FP64 if variant.dtype == torch.float64 else ALLOWED[variant.precision]
    allowed_gradients = max(allowed, ROUNDING.get(variant.dtype, 0.0))
    return {
        "loss_error": of_losses[0],
        "loss_error_without_gradients": of_losses[1],
        "gradient_error": of_gradients,
        "allowed": [allowed, allowed_gradients],
        "right": all(error <= allowed for error in of_losses) and of_gradients <= allowed_gradients,  # a NaN is not
    }


def _case(sizes: tuple[int, int, tuple[int, ...]]) -> Case:
    n, m, dims = sizes
    return Case("", n, m, dims, JAN[: len(dims)], 1.0, WEIGHTS[: len(dims)])


def _inputs(
    sizes: tuple[int, int, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    sources, targets = ([x.detach().to(dtype).requires_grad_() for x in side] for side in _case(sizes).inputs(device))
    return sources, targets


@cache
def _truth(
    sizes: tuple[int, int, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    wide = [[x.detach().double() for x in side] for side in _inputs(sizes, dtype, device)]
    return reference(_case(sizes), *wide, torch.float64)


# One route in a process of its own -----------------------------------------------------------------------------------


def work(route: str, first: int, device: torch.device) -> int:
    """Prints the lines of a route from its `first` variant on."""
    if (reason := dispatch.unavailable(backend_of(route), device)) is not None:
        print(json.dumps({"route": route, "absent": reason}), flush=True)
        return 0
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    for variant in variants(route)[first:]:
        line = evaluate(variant, device)
        print(json.dumps(line), flush=True)
        if "failed" in line and not measure.usable(device):
            return UNUSABLE
    return 0


def lines(route: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """All lines of a route, from as many processes as that takes."""
    todo = variants(route)
    done = crashes = 0
    while done < len(todo):
        before = done
        command = (sys.executable, "-m", "bench.values", "--device", str(device), "--work", route, str(done))
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            for text in _patiently(process):
                try:
                    line = json.loads(text)
                except ValueError:  # Triton prints what ptxas refuses
                    print(text, end="", file=sys.stderr, flush=True)
                    continue
                yield line
                if "absent" in line:
                    return
                done += 1
        if process.returncode == 0:
            return
        crashes += 1
        if process.returncode != UNUSABLE or done == before:  # it died while it computed the next
            killed = process.returncode == -signal.SIGKILL
            reason = (
                f"no value in {PATIENCE:.0f} s" if killed else f"its process ended with status {process.returncode}"
            )
            if done < len(todo):
                yield todo[done].described() | {"right": False, "failed": reason}
            done += 1
        if crashes == MOST_CRASHES and done < len(todo):
            yield {"route": route, "right": False, "failed": f"{crashes} crashes: {len(todo) - done} not computed"}
            return


def _patiently(process: subprocess.Popen[str]) -> Iterator[str]:
    """Lines of a process, which is killed where one takes too long."""
    assert process.stdout is not None
    while True:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            text = process.stdout.readline()
        finally:
            watchdog.cancel()
        if not text.endswith("\n"):  # the end, or a line cut off
            return
        yield text


def outcome(line: dict[str, Any]) -> str:
    """How a line ended: "absent", "failed", "right" or "wrong"."""
    for word in ("absent", "failed"):
        if word in line:
            return word
    return "right" if line["right"] else "wrong"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    if options.work:
        return work(options.work[0], int(options.work[1]), device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    with options.out.open("w") as file:

        def write(line: dict[str, Any]) -> None:
            with lock:
                file.write(json.dumps(line) + "\n")
                file.flush()

        def collect(route: str) -> None:
            for line in lines(route, device):
                write(line)
                counts[outcome(line)] += 1
                if outcome(line) != "right":
                    print(f"{outcome(line)}: {line}", flush=True)

        with ThreadPoolExecutor(options.processes) as pool:
            list(pool.map(collect, options.routes))
        write({"summary": dict(counts)})
    print("values:", ", ".join(f"{count} {word}" for word, count in sorted(counts.items())), flush=True)
    return int(bool(counts["wrong"] or counts["failed"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = route_names(BACKENDS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "values.jsonl", help="(default: runs/values.jsonl)")
    parser.add_argument("--device", default="cuda:0", help="(default: cuda:0)")
    parser.add_argument("--routes", nargs="+", default=route_names(), choices=names, help="(default: all of a GPU)")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="side by side")
    parser.add_argument("--work", nargs=2, metavar=("ROUTE", "FIRST"), help="print the lines of one route (internal)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
