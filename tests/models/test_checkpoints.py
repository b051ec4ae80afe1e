"""Checkpoints survive killed processes, full disks and refused permissions, and damaged ones are named."""

import errno
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from fastmmd.models import checkpoints
from fastmmd.models.checkpoints import AtomicCheckpointIO
from fastmmd.models.cli import TransferCLI
from fastmmd.models.experiment import Run
from fastmmd.models.trained import load_trained

from .test_cli import SHORT, SILENT, digits
from .test_files import files_limited, no_root

MANY = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fastmmd.models.checkpoints import AtomicCheckpointIO
path, sizes = Path(sys.argv[1]), {}
torch.set_num_threads(1)
draw = random.Random(0)
before = 0
for _ in range(25):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        weights = torch.full((300_000,), float(before))
        while True:
            weights += 1
            AtomicCheckpointIO().save_checkpoint({"weights": weights}, path)
            os.write(writing, b".")
    os.close(writing)
    saved = sum(len(os.read(reading, 1)) for _ in range(draw.randint(1, 3)))
    time.sleep(draw.uniform(0.0, 0.02))  # somewhere in the next one
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    weights = AtomicCheckpointIO().load_checkpoint(path)["weights"]
    assert weights.min() == weights.max() >= before + saved, (weights.min(), weights.max(), before, saved)
    before = weights[0].item()
    assert len(list(path.parent.iterdir())) <= 2, list(path.parent.iterdir())
print(before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    """25 processes are killed while they save. What each had saved is there, whole, and at most one draft beside it."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    # A folder for temporary files on another file system, where there is one.
    temporary = {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}
    command = [sys.executable, "-c", MANY, path]
    result = subprocess.run(command, env={**os.environ, **temporary}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) >= 25
    AtomicCheckpointIO().save_checkpoint({}, path)
    assert list(path.parent.iterdir()) == [path]


def test_error_of_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device; free space there, .*: '{path}'$"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError, match="storage_options: "):
        AtomicCheckpointIO().save_checkpoint({}, path, storage_options={"a": 1})


def test_full_disk_ends_a_training_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    digits("fit", "source_only", tmp_path, *SHORT)
    folder = tmp_path / "checkpoints"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    save = AtomicCheckpointIO.save_checkpoint

    def limited(*args, **options):
        with files_limited(50_000):
            save(*args, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", limited)
    with pytest.raises(OSError, match=f"File too large; free space there, .*: '{folder}/(last|best).ckpt'$"):
        digits("fit", "source_only", tmp_path, *SHORT, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("blocked", ["checkpoints", "logs", ""])
def test_output_that_cannot_be_written_is_refused_before_training(tmp_path, blocked, monkeypatch):
    """Whoever runs the tests: no folder can be made where a file is."""
    output = tmp_path / "output"
    if blocked:
        output.mkdir()
    (output / blocked).write_text("")
    monkeypatch.setattr("fastmmd.models.module.TransferTask.training_step", lambda *_: pytest.fail("it trained"))
    with pytest.raises(OSError, match=re.escape(str(output / blocked))):
        digits("fit", "source_only", output, *SHORT)


def test_folder_without_permission_is_refused_before_training(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=0o555)
    check = TransferCLI.before_fit

    def refused(cli):
        with no_root():
            check(cli)

    monkeypatch.setattr(TransferCLI, "before_fit", refused)
    with pytest.raises(PermissionError, match=f"Permission denied; make it writable for this user, .*: '{folder}'$"):
        digits("fit", "source_only", tmp_path, *SHORT)


def test_permission_that_is_taken_in_training_is_an_error(tmp_path, monkeypatch):
    save = AtomicCheckpointIO.save_checkpoint

    def refused(io, checkpoint, path, storage_options=None):
        Path(path).parent.chmod(0o555)
        with no_root():
            save(io, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", refused)
    with pytest.raises(PermissionError, match=f"Permission denied; .*: '{tmp_path}/checkpoints/(last|best).ckpt'$"):
        digits("fit", "source_only", tmp_path, *SHORT)


def test_errors_of_loggers_name_the_output(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lightning.pytorch.loggers.CSVLogger.save", full)
    with pytest.raises(OSError, match=f"No space left on device; free space there, .*: '{tmp_path}'$"):
        digits("fit", "source_only", tmp_path, *SHORT)


class Own(TorchCheckpointIO):
    """A user's."""


def test_plugins_of_the_user_stay(tmp_path):
    def built(*args):
        config = ["--config=digits.yaml", f"--output={tmp_path}", *SILENT]
        return TransferCLI([*config, *args], run=False).trainer.strategy.checkpoint_io

    io = "lightning.pytorch.plugins.io"
    assert type(built()) is AtomicCheckpointIO
    environment = "lightning.pytorch.plugins.environments.LightningEnvironment"
    assert type(built(f"--trainer.plugins={environment}")) is AtomicCheckpointIO
    assert type(built("--trainer.plugins=tests.models.test_checkpoints.Own")) is Own
    later = built(f"--trainer.plugins=[{io}.AsyncCheckpointIO,{environment}]")
    assert type(later) is AsyncCheckpointIO
    assert type(later.checkpoint_io) is AtomicCheckpointIO


@pytest.mark.parametrize("damage", ["empty", "begun", "truncated", "random"])
def test_damaged_checkpoint_is_named(tmp_path, damage):
    digits("fit", "source_only", tmp_path, *SHORT)
    last, best = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    whole = last.read_bytes()
    content = {
        "empty": b"",
        "begun": whole[:20_000],
        "truncated": whole[: len(whole) // 2],
        "random": random.Random(0).randbytes(5000),
    }[damage]
    last.write_bytes(content)
    named = f"checkpoint {last} ({len(content):,} bytes) is damaged; "
    left = f"best.ckpt beside it can be read: --ckpt_path {best}; or begin anew"
    readings = [
        lambda: digits("fit", "source_only", tmp_path, *SHORT, "--ckpt_path=last"),
        lambda: digits("fit", "source_only", tmp_path, *SHORT, f"--ckpt_path={last}"),
        lambda: digits("test", "source_only", tmp_path),
        lambda: load_trained(last),
    ]
    for read in readings:
        with pytest.raises(ValueError, match=f"{re.escape(named)}.*{re.escape(left)}"):
            read()
    best.write_bytes(b"")
    with pytest.raises(ValueError, match="no other checkpoint beside it can be read; or begin anew: remove it"):
        load_trained(last)


def test_weights_alone_are_no_checkpoint(tmp_path):
    digits("fit", "source_only", tmp_path, *SHORT)
    last = tmp_path / "checkpoints" / "last.ckpt"
    weights = torch.load(last, weights_only=True)["state_dict"]
    for content in (weights, [weights]):
        torch.save(content, last)
        for command in (["test"], ["fit", *SHORT, "--ckpt_path=last"]):
            with pytest.raises(ValueError, match=f"{last} is no checkpoint of .*weights FILE"):
                digits(command[0], "source_only", tmp_path, *command[1:])


def test_run_with_damaged_files_is_repeated(tmp_path):
    run = Run("mnist", "jan", 0, ("--config=digits.yaml", "--config=jan.yaml", *SHORT))
    first = run.execute(tmp_path)
    folder = run.folder(tmp_path)
    for content in (b"", b'{"task": "mn', b"\xff\xfe", b"[]"):
        (folder / "result.json").write_bytes(content)
        assert run.result(tmp_path) is None
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    again = run.execute(tmp_path)
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert run.result(tmp_path) == again


@pytest.mark.parametrize("damage", ["damaged", "absent"])
def test_run_whose_best_checkpoint_is_lost_is_repeated(tmp_path, damage):
    args = ("--config=digits.yaml", "--config=jan.yaml", *SHORT)
    run = Run("mnist", "jan", 0, args, checkpoint="best")
    first = run.execute(tmp_path)
    best = run.folder(tmp_path) / "checkpoints" / "best.ckpt"
    if damage == "damaged":
        best.write_bytes(b"x")
    else:
        best.unlink()
    assert run.execute(tmp_path) | {"seconds": 0} == first | {"seconds": 0}
