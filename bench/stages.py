"""Stages of a command with a fixed time: each is a process with its own log and limit, and all end with the command.

Only the standard library is needed, and nothing here touches a GPU: whatever a stage meets, the next one starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

LOG = "log.txt"
GRACE = 3.0  # seconds from SIGTERM to SIGKILL
FEWEST_SECONDS = 2.0  # with less than this left, a stage is not started
POLL = 0.05
MARK = "FASTMMD_STAGE"  # an environment variable: how processes are found that a stage put into other sessions
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Stage:
    """One process.

    does: what it does, in a line.
    seconds: its limit; None: whatever the stages after it leave.
    command: its arguments, where ``{out}`` stands for the folder of results and ``{seconds}`` for the seconds after
        which it should begin nothing new (nine tenths of its limit).
    log: the file that its output goes to; "": the terminal.
    step: neighbours of the same step run side by side; "": it runs alone.
    essential: if it ends with status 2, there is nothing to do here, and no other stage starts.
    """

    name: str
    does: str
    seconds: float | None
    command: tuple[str, ...]
    log: str = LOG
    step: str = ""
    essential: bool = False


@dataclass(frozen=True)
class _Started:
    stage: Stage
    process: subprocess.Popen[bytes]
    mark: str
    begin: float
    until: float


@dataclass
class Runner:
    """Runs stages until a deadline, `seconds` from now.

    closing: a last stage, whose seconds are kept free for it.
    outcomes: how each stage ended.
    """

    out: Path
    seconds: float
    closing: Stage
    root: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.signal: int | None = None
        self.refused = False
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self, stages: Sequence[Stage]) -> bool:
        """Runs all; whether each ended with status 0. A signal ends what runs, and nothing else starts."""
        reserved = self.closing.seconds or 0.0
        with self._listening():
            try:
                for _, neighbours in groupby(stages, key=lambda stage: stage.step or stage.name):
                    step = tuple(neighbours)
                    later = stages[stages.index(step[-1]) + 1 :]
                    self._run_step(step, reserved, sum(stage.seconds or 0.0 for stage in later))
                    if self.refused:
                        return False
                if self.signal is None:
                    self._run_step((self.closing,), 0.0, 0.0)
            finally:
                _kill_marked(f"{MARK}={self._mark}/", signal.SIGKILL)
                self._clear_drafts()
                self.summarize()
        return self.signal is None and all(outcome.startswith("status 0") for outcome in self.outcomes.values())

    def log(self, text: str) -> None:
        """Writes a line to the terminal and the log, with the seconds since the start."""
        line = f"[{time.monotonic() - self.begin:6.1f} s] {text}"
        print(line, flush=True)
        with (self.out / LOG).open("a") as file:
            file.write(line + "\n")

    def summarize(self) -> None:
        self.log("stages: " + "; ".join(f"{name}: {outcome}" for name, outcome in self.outcomes.items()))

    @property
    def _mark(self) -> str:
        return f"{os.getpid()}-{self.begin}"

    def _seconds(self, stage: Stage, reserved: float, later: float) -> float:
        """What a stage gets now. reserved: for the closing stage. later: of the stages between."""
        left = self.begin + self.seconds - GRACE - reserved - time.monotonic()
        return max(0.0, left - later if stage.seconds is None else min(stage.seconds, left))

    def _run_step(self, step: Sequence[Stage], reserved: float, later: float) -> None:
        running: list[_Started] = []
        try:
            for stage in step:
                if (started := self._start(stage, reserved, later)) is not None:
                    running.append(started)
            while running and self.signal is None:
                for started in tuple(running):
                    self._watch(started, running)
                time.sleep(POLL)
        finally:
            _end(running)
        for started in running:
            self._note(started.stage, f"ended by signal {self.signal}")

    def _watch(self, started: _Started, running: list[_Started]) -> None:
        status = started.process.poll()
        if status is None and time.monotonic() < started.until:
            return
        seconds = time.monotonic() - started.begin
        _end([started])
        running.remove(started)
        limit = f"ended at its limit of {started.until - started.begin:.0f} s"
        self._note(started.stage, limit if status is None else f"status {status} after {seconds:.0f} s")
        self.refused = self.refused or (started.stage.essential and status == 2)

    def _start(self, stage: Stage, reserved: float, later: float) -> _Started | None:
        seconds = self._seconds(stage, reserved, later)
        if self.signal is not None:
            return None
        if seconds < min(FEWEST_SECONDS, stage.seconds or FEWEST_SECONDS):
            self._note(stage, "no time left")
            return None
        command = [argument.format(out=self.out, seconds=f"{0.9 * seconds:.1f}") for argument in stage.command]
        self.log(f"{stage.name}: {seconds:.0f} s at most: {' '.join(command)}")
        mark = f"{self._mark}/{stage.name}/"
        output = None
        try:
            if stage.log:
                output = (self.out / stage.log).open("ab" if stage.log == LOG else "wb")
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=os.environ | dict(self.settings) | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._note(stage, f"not started: {error}")
            return None
        finally:
            if output is not None:
                output.close()
        begin = time.monotonic()
        return _Started(stage, process, f"{MARK}={mark}", begin, begin + seconds)

    def _note(self, stage: Stage, outcome: str) -> None:
        self.outcomes[stage.name] = outcome
        self.log(f"{stage.name}: {outcome}")

    def _clear_drafts(self) -> None:
        """Removes what write_atomically leaves where its process is killed."""
        for draft in self.out.glob(".*.[0-9]*"):
            draft.unlink(missing_ok=True)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Within it signals are noted, and acted upon where processes are waited for."""

        def note(number: int, _: object) -> None:
            self.signal = number

        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def select(stages: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    """The named stages in their order; all if no name is given."""
    known = [stage.name for stage in stages]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown stages {', '.join(unknown)}; expected some of {', '.join(known)}")
    return tuple(stage for stage in stages if not names or stage.name in names)


def plan(stages: Sequence[Stage], seconds: float, closing: Stage) -> Iterator[str]:
    """A table of the stages with their limits and the latest second at which each starts."""
    yield f"{'from s':>8}{'limit s':>9}  {'stage':<12}{'file':<15}what"
    reserved = GRACE + (closing.seconds or 0.0)
    latest = 0.0
    for _, neighbours in groupby(stages, key=lambda stage: stage.step or stage.name):
        step = tuple(neighbours)
        later = sum(stage.seconds or 0.0 for stage in stages[stages.index(step[-1]) + 1 :])
        limits = [max(0.0, seconds - reserved - latest - later) if s.seconds is None else s.seconds for s in step]
        for position, (stage, limit) in enumerate(zip(step, limits, strict=True)):
            start = f"{latest:8.0f}" if position == 0 else f"{'beside':>8}"
            yield f"{start}{limit:9.0f}  {stage.name:<12}{stage.log or '-':<15}{stage.does}"
        latest = min(seconds - reserved, latest + max(limits))
    limit = closing.seconds or 0.0
    yield f"{seconds - reserved:8.0f}{limit:9.0f}  {closing.name:<12}{closing.log or '-':<15}{closing.does}"
    yield f"{seconds:8.0f}  everything has ended"


def _end(ending: Sequence[_Started]) -> None:
    """Ends processes and whatever they started: their groups, and what carries their marks in other sessions."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for started in ending:
            if started.process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(started.process.pid, number)
            _kill_marked(started.mark, number)
        patience = time.monotonic() + GRACE
        while any(started.process.poll() is None or any(_marked(started.mark)) for started in ending):
            if time.monotonic() > patience:
                break
            time.sleep(POLL)
        else:
            return


def _kill_marked(mark: str, number: int) -> None:
    for process in _marked(mark):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _marked(mark: str) -> Iterator[int]:
    """Processes whose environment holds a variable that begins like `mark`; none where there is no /proc."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if any(variable.startswith(mark.encode()) for variable in path.read_bytes().split(b"\0")):
                yield int(path.parent.name)
