"""Checkpoints that are complete or absent: a killed process or a full disk leaves the last good one as it was."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fastmmd.models.files import is_of_system, write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, each written beside its target, brought to the disk, and renamed.

    Lightning itself writes to the folder for temporary files and moves the file. Between file systems that is a copy,
    which a killed process leaves half done where the last good checkpoint was; and a refused permission is passed over.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint as `torch.save` does.

        Raises:
            OSError: it cannot be written; the error has the absolute path and says what to do.
            TypeError: `storage_options` are given, which are for remote files.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options: a local file has none, got {storage_options!r}")
        # In memory first: within `torch.save` the system's error would be lost behind one about a position in the file.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with write_atomically(Path(path), "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the name, should the power go out

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """What `save_checkpoint` has written.

        Raises:
            ValueError: the file is damaged, see `damage_named`, or holds no dict.
        """
        with damage_named(Path(path)):
            content = super().load_checkpoint(path, map_location, weights_only)
        if not isinstance(content, Mapping):
            raise no_checkpoint(Path(path))
        return content


def no_checkpoint(path: Path) -> ValueError:
    """The error of a file that can be read and is something else."""
    return ValueError(
        f"{os.path.abspath(path)} is no checkpoint of `python -m fastmmd.models fit`; weights alone begin a new run: "
        "--model.network.backbone.weights FILE"
    )


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Within the block, which reads the checkpoint at `path`, errors of reading say which file it was and what is left.

    Raises:
        ValueError: the file could not be read. The error has its path, its size, what torch said, and whether another
            checkpoint of the same folder can be read.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of random bytes torch makes nearly every type
        if is_of_system(error) or readable(path):
            raise
        whole = [other for other in sorted(path.parent.glob("*.ckpt")) if other != path and readable(other)]
        rest = "".join(f"{other.name} beside it can be read: --ckpt_path {os.path.abspath(other)}; " for other in whole)
        reason = str(error).partition(". ")[0].strip() or "no reason given"
        raise ValueError(
            f"the checkpoint {os.path.abspath(path)} ({path.stat().st_size:,} bytes) is damaged; expected one of "
            f"`python -m fastmmd.models fit`, torch says {type(error).__name__}: {reason}; "
            f"{rest or 'no other checkpoint beside it can be read; '}"
            "or begin anew: remove it, or choose another --output"
        ) from error


def readable(path: Path) -> bool:
    """Whether a file is a whole checkpoint, which takes reading it."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:
        return False
    return True
