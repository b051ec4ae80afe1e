"""compute-sanitizer over small cases of every route: its tools side by side, each line with the tool's name before it.

    python -m bench.sanitizer [TOOL ...]      memcheck and racecheck unless others are named

Its absence or refusal is no failure: a driver may forbid it. The exit status is 1 if a tool found an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import environment

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck")
FOUND_ERRORS = 86  # compute-sanitizer's exit status for errors of its own
TESTS = ("tests/gpu/test_sanitizer.py", "-m", "gpu", "-vv", "-p", "no:cacheprovider")


def main(tools: Sequence[str] | None = None) -> int:
    tools = tools or sys.argv[1:] or TOOLS
    program = environment.tool("compute-sanitizer")
    if program is None:
        print("compute-sanitizer: not installed", flush=True)
        return 0
    with ThreadPoolExecutor(len(tools)) as pool:
        statuses = list(pool.map(lambda tool: examine(program, tool), tools))
    return int(FOUND_ERRORS in statuses)


def examine(program: str, tool: str) -> int:
    """The exit status of one tool, whose lines are printed as they come, after its name."""
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS), sys.executable, "-m", "pytest", *TESTS]
    # Without torch's cache every tensor is an allocation of its own: an overrun leaves it, and new memory is new.
    settings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            print(f"{tool}: {line}", end="", flush=True)
    print(f"{tool}: exit status {process.returncode}", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
