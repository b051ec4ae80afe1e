"""Many runs of the command line, in parallel and resumable: a finished run is never repeated."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import closing, suppress
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
from fastmmd import extension
from fastmmd.models.callbacks import chosen_by
from fastmmd.models.checkpoints import readable
from fastmmd.models.cli import ArgumentsOnly, TransferCLI, packaged
from fastmmd.models.data import DomainPair
from fastmmd.models.files import errors_named, write_atomically
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
        """Trains, from the last checkpoint if it and the one to be tested are whole, and tests. Its files appear when
        complete."""
        begin = time.monotonic()
        names = {"last", self.checkpoint}
        checkpoints = [self.folder(root) / "checkpoints" / f"{name}.ckpt" for name in names]
        if not all(map(readable, checkpoints)):  # the run ends the same wherever it begins
            for file in checkpoints:
                file.unlink(missing_ok=True)
        cli = self.cli(root)
        cli.before_fit()
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path="last")
        (metrics,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=self.checkpoint, verbose=False)
        correct = round(len(cli.datamodule.test_items) * metrics["test/accuracy"])
        return self.finish(root, cli, correct, chosen_by(cli.trainer), cli.trainer.global_step, begin)

    def arguments(self, root: Path) -> list[str]:
        """All arguments of the command line."""
        fold = [] if self.fold is None else [f"--data.fold={self.fold}"]
        return [*self.args, *fold, f"--seed_everything={self.seed}", f"--output={self.folder(root)}"]

    def cli(self, root: Path) -> TransferCLI:
        """Model, data and trainer, as the arguments say."""
        return TransferCLI(
            self.arguments(root),
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
    if extension.module is not None:  # beside an installed copy, when this one is a checkout
        files.add(Path(extension.module.__file__))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def execute_all(runs: Sequence[Run], root: Path, jobs: int) -> list[Result]:
    """The results of `runs`, in their order, with a progress bar; equal runs count once.

    Finished runs are read back; the others go to `jobs` processes of one thread each, which makes a run's result
    independent of `jobs`. An interruption loses at most an epoch of each run in progress, and so does a process that is
    killed, such as for want of memory: its run is tried once more, alone. What is wrong with the arguments or the data
    ends all before the first run.

    Raises:
        SystemExit: runs failed, after all others finished and with a line for each; or there was an interruption; or
            arguments are wrong.
        Exception: as `check` raises.
    """
    runs = list(dict.fromkeys(runs))
    results = {run: result for run in runs if (result := run.result(root))}
    waiting = [run for run in runs if run not in results]
    check(waiting, root)
    with (
        closing(_in_processes(waiting, root, jobs)) as finished,
        tqdm(total=len(runs), initial=len(results), desc="runs", unit="run") as bar,
    ):
        try:
            for run, future in finished:
                error = future.exception()
                if error is None:
                    results[run] = result = future.result()
                    outcome = f"{result['accuracy']:.1f} % in {result['seconds']} s"
                else:
                    outcome = f"failed: {_named(error, run.folder(root))}"
                bar.write(f"{run.task}, {run.method}, {run.name}: {outcome}")
                bar.update()
        except KeyboardInterrupt:
            raise SystemExit("interrupted; the same command continues") from None
    if len(results) < len(runs):
        raise SystemExit(f"{len(runs) - len(results)} of {len(runs)} runs failed; the same command repeats only those")
    return [results[run] for run in runs]


def _in_processes(runs: Sequence[Run], root: Path, jobs: int) -> Generator[tuple[Run, Future[Result]], None, None]:
    """Executes runs in processes, and gives each with its future when it has finished; closing it ends the processes.

    A process that is killed breaks its pool, which no other run may suffer from: those in progress then, `jobs` at
    most, go on in a new pool behind the others, one by one.
    """
    waiting, tried = deque(runs), set()
    while waiting:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
            running: dict[Future[Result], Run] = {}
            broken = False
            try:
                while running or (waiting and not broken):
                    while waiting and not broken and len(running) < (1 if waiting[0] in tried else jobs):
                        try:
                            running[pool.submit(waiting[0].execute, root)] = waiting[0]
                        except BrokenExecutor:  # an idle process was killed
                            broken = True
                        else:
                            waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        run = running.pop(future)
                        if isinstance(future.exception(), BrokenExecutor):
                            broken = True
                            if run not in tried:
                                tried.add(run)
                                waiting.append(run)
                                continue
                        yield run, future
            except (KeyboardInterrupt, GeneratorExit):
                for worker in active_children():
                    worker.terminate()
                raise


def _named(error: BaseException, folder: Path) -> str:
    """An error in words; one of writing, such as a full disk's, with the folder where it has no path of its own."""
    try:
        with errors_named(folder):
            raise error
    except BaseException as named:
        return f"{type(named).__name__}: {named}"


def check(runs: Sequence[Run], root: Path) -> None:
    """Reads the arguments of all runs, and builds their data, each set-up once whatever its seed and fold.

    Raises:
        SystemExit: a wrong argument, which it prints.
        Exception: what is wrong with the data, after a line that says whose they are.
    """
    command: ArgumentsOnly | None = None
    seen: dict[str, DomainPair] = {}
    for run in {(run.task, run.method, run.args, run.fold): run for run in runs}.values():
        args = run.arguments(root)
        command = command or ArgumentsOnly(args)
        settings = command.parser.parse_args(packaged(args)).data
        common = settings.clone()
        common.seed, common.workers, common.fold = 0, 0, settings.fold is not None
        known = seen.get(str(common))
        if known is not None and (settings.fold is None or 0 <= settings.fold < len(known.split.folds)):
            continue
        try:
            pair = command.data(settings)
        except BaseException:
            print(f"{run.task}, {run.method}: no run was begun, for these data cannot be used", file=sys.stderr)
            raise
        seen[str(common)] = pair


def _begin_worker() -> None:
    """A quiet process of one thread, which ends when its parent does, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _hush_warnings()


def _hush_warnings() -> None:
    """Of all warnings, leaves those about the data of a run."""
    warnings.filterwarnings("ignore")
    told = ("unreadable images", "rated images are not there", "since the run began", "data were divided", "not UTF-8")
    warnings.filterwarnings("default", message="|".join(f".*{words}" for words in told))
