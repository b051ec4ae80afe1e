"""Many runs of the command line, in parallel and resumable: a finished run is never repeated."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from fastmmd.models.callbacks import chosen_by
from fastmmd.models.cli import TransferCLI, packaged
from fastmmd.models.files import write_atomically

Checkpoint = Literal["last", "best"]
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training with its test.

    Args:
        task, method, seed: what the run is called in tables; the seed is also set.
        args: arguments of the command line, without a subcommand: configurations and overrides.
        checkpoint: what is tested, "last" or "best" (of the target's validation part; never of its test).
    """

    task: str
    method: str
    seed: int
    args: tuple[str, ...]
    checkpoint: Checkpoint = "last"

    def folder(self, root: Path) -> Path:
        """Where the run writes. The name ends in a hash of arguments and configurations: a changed run begins anew."""
        digest = hashlib.sha256(repr(self).encode())
        for arg in packaged(self.args):
            path = Path(arg.removeprefix("--config="))
            if path.is_file():
                digest.update(path.read_bytes())
        return root / self.task / self.method / f"seed{self.seed}-{digest.hexdigest()[:8]}"

    def result(self, root: Path) -> Result | None:
        """What `execute` returned, if it has finished."""
        file = self.folder(root) / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def execute(self, root: Path) -> Result:
        """Trains, from the last checkpoint if there is one, and tests. Its files appear when they are complete."""
        begin = time.monotonic()
        folder = self.folder(root)
        cli = TransferCLI(
            [*self.args, f"--seed_everything={self.seed}", f"--output={folder}"],
            run=False,
            trainer_defaults={"enable_progress_bar": False, "enable_model_summary": False},
        )
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path="last")
        (metrics,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=self.checkpoint, verbose=False)
        result = {
            "task": self.task,
            "method": self.method,
            "seed": self.seed,
            "accuracy": 100 * metrics["test/accuracy"],
            "test_images": len(cli.datamodule.test_items),
            "source_labels": cli.model.hparams.source_labels,
            "target_labels": cli.model.hparams.target_labels,
            "checkpoint": chosen_by(cli.trainer),
            "steps": cli.trainer.global_step,
            "seconds": round(time.monotonic() - begin, 1),
            "folder": str(folder.relative_to(root)),
        }
        with write_atomically(folder / "result.json") as file:
            json.dump(result, file, indent=2)
        return result


def execute_all(runs: Sequence[Run], root: Path, jobs: int) -> list[Result]:
    """The results of `runs`, in their order, with a progress bar.

    Finished runs are read back; the others go to `jobs` processes of one thread each, which makes a run's result
    independent of `jobs`. An interruption loses at most an epoch of each run in progress.
    """
    results = {run: result for run in runs if (result := run.result(root))}
    with tqdm(total=len(runs), initial=len(results), desc="runs", unit="run") as bar:
        for run, result in _executed([run for run in runs if run not in results], root, jobs):
            results[run] = result
            bar.write(f"{run.task}, {run.method}, seed {run.seed}: {result['accuracy']:.1f} % in {result['seconds']} s")
            bar.update()
    return [results[run] for run in runs]


def _executed(runs: Sequence[Run], root: Path, jobs: int) -> Iterator[tuple[Run, Result]]:
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_quiet_single_thread)
    try:
        futures = {pool.submit(run.execute, root): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _quiet_single_thread() -> None:
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
