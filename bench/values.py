"""Loss and gradients of every route, product format and input dtype against fp64, one JSON line per value as it comes.
Losses whose pairs have weights (bench/forms.py) are routes of their own: a backend's name and "-forms".

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
from pathlib import Path
from typing import Any

import torch

from bench import measure, routes
from bench.form_values import FormVariant, form_variants
from bench.variants import Variant, variants
from fastmmd import dispatch

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 40.0  # seconds for one value, compilation included
MOST_CRASHES = 5  # of the processes of one route
UNUSABLE = 3  # the exit status of a process whose device takes no more work
GPU_BACKENDS = ("cuda", "torch", "triton")  # first what compiles nothing
BACKENDS = (*GPU_BACKENDS, "cpu")
FORMS = "-forms"


def names(backends: Sequence[str]) -> list[str]:
    """The routes of some backends; those of forms last, since they take fewer values."""
    return [*routes.names(backends), *[f"{backend}{FORMS}" for backend in backends]]


def values_of(route: str) -> Sequence[Variant | FormVariant]:
    """What is computed of a route."""
    return form_variants(route) if route.endswith(FORMS) else variants(route)


def evaluate(variant: Variant | FormVariant, device: torch.device) -> dict[str, Any]:
    """A variant's line: errors and whether they are allowed, or why it failed."""
    line = variant.described()
    begin = time.perf_counter()
    try:
        line |= variant.errors(device)
    except Exception as error:  # whatever a compiler or a driver says
        line |= {"right": False, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return line | {"seconds": round(time.perf_counter() - begin, 3)}


# One route in a process of its own -----------------------------------------------------------------------------------


def work(route: str, first: int, device: torch.device) -> int:
    """Prints the lines of a route from its `first` variant on."""
    if (reason := dispatch.unavailable(routes.backend_of_name(route), device)) is not None:
        print(json.dumps({"route": route, "absent": reason}), flush=True)
        return 0
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    for variant in values_of(route)[first:]:
        line = evaluate(variant, device)
        print(json.dumps(line), flush=True)
        if "failed" in line and not measure.usable(device):
            return UNUSABLE
    return 0


def lines(route: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """All lines of a route, from as many processes as that takes."""
    todo = values_of(route)
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
            ending = f"its process ended with status {process.returncode}"
            reason = f"no value in {PATIENCE:.0f} s" if killed else ending
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
        if not text.endswith("\n"):  # the end, or half a line
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
            list(pool.map(collect, options.routes))  # a list, so that errors are raised
        write({"summary": dict(counts)})
    print("values:", ", ".join(f"{count} {word}" for word, count in sorted(counts.items())), flush=True)
    return int(bool(counts["wrong"] or counts["failed"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "values.jsonl", help="(default: runs/values.jsonl)")
    parser.add_argument("--device", default="cuda:0", help="(default: cuda:0)")
    parser.add_argument(
        "--routes", nargs="+", default=names(GPU_BACKENDS), choices=names(BACKENDS), help="(default: all of a GPU)"
    )
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="side by side")
    parser.add_argument("--work", nargs=2, metavar=("ROUTE", "FIRST"), help="print the lines of one route (internal)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
