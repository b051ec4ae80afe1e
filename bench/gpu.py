"""Everything about one GPU in one command of fixed length: it builds, checks, measures, tunes and profiles.

    python3 bench/gpu.py --out DIR                        560 seconds, the build among them; results to DIR
    python3 bench/gpu.py --out DIR --only values,main     some stages, of a checkout that is installed
    python3 bench/gpu.py --dry-run                        stages, limits and order; on any machine

Needs a CUDA device, PyTorch for CUDA, Triton, pytest and numpy, and no network. Nothing stops what follows: a stage
that fails, hangs or crashes is noted, and the next begins. Every value, row and line is written as it comes, in seven
files. `python -m bench.report DIR` renders what is there. The exit status is 0 if all stages ended with 0, else 1; 2
without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import stages
from bench.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 560.0


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"bench.{name}", *arguments)


def _tests() -> tuple[str, ...]:
    """pytest, on several processes where pytest-xdist is installed: most of its time is the compilation of kernels.
    -vv, against the -q of pyproject.toml: a line per test as it ends."""
    workers = ("-n", str(max(1, min(8, (os.cpu_count() or 2) // 2)))) if importlib.util.find_spec("xdist") else ()
    options = ("-m", "gpu", "-vv", "--tb=short", "-p", "no:cacheprovider", *workers)
    return (sys.executable, "-m", "pytest", "tests/gpu", *options)


RECORD = ("--out", "{out}/gpu.json", "--seconds", "{seconds}")
ENVIRONMENT = Stage("environment", "what the machine has, or lacks", 30, _module("environment"), log="", essential=True)
STAGES = (
    Stage("build", "installs this checkout, with CUDA kernels for this GPU alone", 80, _module("install")),
    Stage(
        "values",
        "loss and gradients of every route, format and dtype, with forms too, against fp64",
        85,
        _module("values", "--processes", "15", "--out", "{out}/values.jsonl"),
        step="values",
    ),
    Stage("tests", "tests/gpu; recorded, no gate", 110, _tests(), log="tests.txt", step="values"),
    Stage(
        "sanitizer",
        "compute-sanitizer's memcheck and racecheck",
        110,
        _module("sanitizer"),
        log="sanitizer.txt",
        step="values",
    ),
    Stage("main", "the benchmark's main rows", 140, _module("rows", "main", *RECORD)),
    Stage(
        "tuning",
        "short lists of other launch configurations; routes over N",
        80,
        _module("tune", "--short", "--out", "{out}/tuning.json", "--seconds", "{seconds}"),
    ),
    Stage(
        "profile",
        "time, pipes, issue slots and bytes per kernel",
        40,
        _module("profiling", "--out", "{out}/profile.json", "--seconds", "{seconds}"),
    ),
    Stage("training", "what the loss adds to a step of ResNet-50", 40, _module("training", *RECORD)),
    Stage("launches", "how many a loss and its gradients take", 15, _module("rows", "launches", *RECORD)),
    Stage("rest", "the benchmark's other rows", None, _module("rows", "rest", *RECORD)),
)
REPORT = Stage("report", "python -m bench.report DIR, printed", 10, _module("report", "{out}"), log="")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        selected = stages.select(STAGES, [name for name in options.only.split(",") if name])
    except ValueError as error:
        parser.error(f"--only: {error}")
    if options.dry_run:
        print("\n".join(stages.plan((ENVIRONMENT, *selected), options.seconds, REPORT)))
        return 0
    caches = tempfile.mkdtemp(prefix="fastmmd-")
    try:
        runner = stages.Runner(
            options.out.resolve(), options.seconds, REPORT, ROOT, _settings(caches, options.revision)
        )
        passed = runner.run((ENVIRONMENT, *selected))
        return 2 if runner.refused else int(not passed)
    finally:
        shutil.rmtree(caches, ignore_errors=True)


def _settings(caches: str, revision: str | None) -> dict[str, str]:
    """The environment of all stages: they share what Triton and torch.compile have compiled."""
    settings = {
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # cmake and ninja
        "TRITON_CACHE_DIR": f"{caches}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
    }
    return settings | ({"FASTMMD_REVISION": revision} if revision else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder (default: runs/gpu)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything (default: {SECONDS:.0f})")
    parser.add_argument("--only", default="", metavar="STAGES", help="some stages, separated by commas")
    parser.add_argument("--revision", help="of git, for a copy of the checkout without .git")
    parser.add_argument("--dry-run", action="store_true", help="print stages, limits and order, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
