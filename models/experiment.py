"""Many runs of the command line, in parallel and resumable: a finished run is never repeated."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from tqdm import tqdm

import fastmmd
import fastmmd.kernels
from fastmmd import compiled
from fastmmd.models.callbacks import chosen_by
from fastmmd.models.checkpoints import readable
from fastmmd.models.cli import TransferCLI, packaged
from fastmmd.models.files import write_atomically
from fastmmd.models.settings import FREE

Checkpoint = Literal["last", "best"]
Result = dict[str, Any]
VERSIONS = {"fastmmd": fastmmd.__version__, "torch": torch.__version__}


@dataclass(frozen=True)
class Run:
    """One training with its test.

    Args:
        task, method, seed: what the run is called in tables; the seed is also set.
        args: arguments of the command line, without a subcommand: configurations and overrides.
        checkpoint: what is tested, "last" or "best" (of the target's validation part; never of its test).
        fold: which fold of the target's split, if it is not a random split.

    Raises:
        ValueError: an argument that the run sets: seed, output, or fold.
    """

    task: str
    method: str
    seed: int
    args: tuple[str, ...]
    checkpoint: Checkpoint = "last"
    fold: int | None = None

    def __post_init__(self) -> None:
        own = ["seed_everything", "output", *([] if self.fold is None else ["data.fold"])]
        for arg in self.args:
            if arg.removeprefix("--").split("=")[0] in own:
                raise ValueError(f"args: expected nothing that the run itself sets ({', '.join(own)}), got {arg!r}")

    @property
    def name(self) -> str:
        """What the run is called among those of its task and method."""
        return f"seed{self.seed}" if self.fold is None else f"fold{self.fold}-seed{self.seed}"

    def folder(self, root: Path) -> Path:
        """Where the run writes. The name ends in a hash of arguments (but for those that change no result),
        configurations and code: a change begins anew."""
        args = tuple(arg for arg in self.args if arg.removeprefix("--").split("=")[0] not in FREE)
        digest = hashlib.sha256(f"{replace(self, args=args)} {VERSIONS} {code_digest()}".encode())
        for arg in packaged(self.args):
            name = arg.removeprefix("--config=").removeprefix("--data.split=")
            if not name.startswith("--") and Path(name).is_file():
                digest.update(Path(name).read_bytes())
        return root / self.task / self.method / f"{self.name}-{digest.hexdigest()[:8]}"

    def result(self, root: Path) -> Result | None:
        """What `execute` returned, if it has finished; a damaged file counts as none."""
        file = self.folder(root) / "result.json"
        with suppress(FileNotFoundError, ValueError):
            result = json.loads(file.read_bytes())
            return result if isinstance(result, dict) else None
        return None

    def execute(self, root: Path) -> Result:
        """Trains, from the last checkpoint if there is a whole one, and tests. Its files appear when complete."""
        begin = time.monotonic()
        last = self.folder(root) / "checkpoints" / "last.ckpt"
        if last.is_file() and not readable(last):  # the run ends the same wherever it begins
            last.unlink()
        cli = self.cli(root)
        cli.before_fit()
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path="last")
        (metrics,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=self.checkpoint, verbose=False)
        correct = round(len(cli.datamodule.test_items) * metrics["test/accuracy"])
        return self.finish(root, cli, correct, chosen_by(cli.trainer), cli.trainer.global_step, begin)

    def cli(self, root: Path) -> TransferCLI:
        """Model, data and trainer, as the arguments say."""
        fold = [] if self.fold is None else [f"--data.fold={self.fold}"]
        return TransferCLI(
            [*self.args, *fold, f"--seed_everything={self.seed}", f"--output={self.folder(root)}"],
            run=False,
            trainer_defaults={"enable_progress_bar": False, "enable_model_summary": False},
        )

    def finish(self, root: Path, cli: TransferCLI, correct: int, checkpoint: str, steps: int, begin: float) -> Result:
        """The result, which it writes; the run is then finished. The test has written `metrics.json`.

        Args:
            root: of all runs.
            cli: what was run.
            correct: number of test images that were right.
            checkpoint: what chose the tested weights.
            steps: of the optimiser.
            begin: when the run began, by `time.monotonic`.
        """
        folder = self.folder(root)
        images = len(cli.datamodule.test_items)
        result = {
            "task": self.task,
            "method": self.method,
            "seed": self.seed,
            "fold": self.fold,
            "accuracy": 100 * correct / images,
            "correct": correct,
            "test_images": images,
            **{name: 100 * value for name, value in json.loads((folder / "metrics.json").read_text()).items()},
            "source_labels": cli.model.hparams.source_labels,
            "target_labels": cli.model.hparams.target_labels,
            "checkpoint": checkpoint,
            "steps": steps,
            "seconds": round(time.monotonic() - begin, 1),
            "folder": str(folder.relative_to(root)),
            **VERSIONS,
        }
        with write_atomically(folder / "result.json") as file:
            json.dump(result, file, indent=2)
        return result


@cache
def code_digest() -> str:
    """Digest of fastmmd's Python files and of its compiled extension."""
    packages = (fastmmd, fastmmd.kernels, fastmmd.models)
    roots = {Path(package.__file__).resolve().parent for package in packages}
    files = {file for root in roots for pattern in ("*.py", "*.so", "*.pyd") for file in root.rglob(pattern)}
    if compiled.module is not None:  # beside an installed copy, when this one is a checkout
        files.add(Path(compiled.module.__file__))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def execute_all(runs: Sequence[Run], root: Path, jobs: int) -> list[Result]:
    """The results of `runs`, in their order, with a progress bar; equal runs count once.

    Finished runs are read back; the others go to `jobs` processes of one thread each, which makes a run's result
    independent of `jobs`. An interruption loses at most an epoch of each run in progress.

    Raises:
        SystemExit: runs failed, after all others finished and with a line for each; or there was an interruption.
    """
    runs = list(dict.fromkeys(runs))
    results = {run: result for run in runs if (result := run.result(root))}
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker) as pool,
        tqdm(total=len(runs), initial=len(results), desc="runs", unit="run") as bar,
    ):
        try:
            futures = {pool.submit(run.execute, root): run for run in runs if run not in results}
            for future in as_completed(futures):
                run, error = futures[future], future.exception()
                if error is None:
                    results[run] = result = future.result()
                    outcome = f"{result['accuracy']:.1f} % in {result['seconds']} s"
                else:
                    outcome = f"failed: {type(error).__name__}: {error}"
                bar.write(f"{run.task}, {run.method}, {run.name}: {outcome}")
                bar.update()
        except KeyboardInterrupt:
            for worker in active_children():
                worker.terminate()
            raise SystemExit("interrupted; the same command continues") from None
    if len(results) < len(runs):
        raise SystemExit(f"{len(runs) - len(results)} of {len(runs)} runs failed; the same command repeats only those")
    return [results[run] for run in runs]


def _begin_worker() -> None:
    """A quiet process of one thread, which ends when its parent does, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", message=".*unreadable images|.*rated images are not there")
