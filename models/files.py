"""Files that are either complete or absent, and errors of writing that say where and what to do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

_ROOM = "free space there, or choose another folder"
_RIGHTS = "make it writable for this user, or choose another folder"
_FOLDER = "a file stands where a folder is needed: move it, or choose another folder"
# What helps against an error of writing, by its number.
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOTDIR: _FOLDER,
    errno.EEXIST: _FOLDER,
    errno.EISDIR: "a folder stands where a file is needed: move it, or choose another folder",
    errno.EIO: "the disk fails: choose another one",
}


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that appears at `path` when the block ends well; an interrupted block leaves `path` as it was.

    The content is written beside `path`, to `.<name>.<host>.<process>`. Such drafts that killed processes of this host
    have left in a folder are removed when a process writes there for the first time.

    Raises:
        OSError: the file cannot be written; the error has its absolute path and says what to do.
    """
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with errors_named(path, draft, *path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(os.path.realpath(path.parent), os.getpid())
            with open(draft, mode, newline=None if "b" in mode else "") as file:
                yield file
            os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def errors_named(path: Path, *others: Path) -> Iterator[None]:
    """Within the block, errors of writing that name no file, or `path`, or one of `others`, get its path and a remedy.

    Args:
        path: what is written, a file or the folder of all that is.
        others: what is written in its stead, or the folders above it.
    """
    try:
        yield
    except OSError as error:
        name, known = error.filename, {os.path.abspath(one) for one in (path, *others)}
        about = name is None or (isinstance(name, str) and os.path.abspath(name) in known)
        if error.errno not in REMEDIES or not about:
            raise
        reason = f"{os.strerror(error.errno)}; {REMEDIES[error.errno]}"
        raise OSError(error.errno, reason, os.path.abspath(path)) from error


def is_of_system(error: Exception) -> bool:
    """Whether an error of reading a file is the system's, and not its content's.

    Of a cut file the system is asked for what stands before its beginning, an invalid argument.
    """
    return isinstance(error, OSError) and error.errno != errno.EINVAL


def require_writable(folder: Path) -> None:
    """Makes `folder` if it is not there.

    Raises:
        OSError: no file can be written there; the error has the absolute path and says what to do.
    """
    probe = folder / f".{socket.gethostname()}.{os.getpid()}"
    with errors_named(folder, probe, *folder.parents):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


@cache
def _remove_abandoned(folder: str, process: int) -> None:
    """Removes the drafts in a folder whose processes, on this host, live no more; once, for a folder may be large.

    Args:
        folder: its real path.
        process: which asks; one that is forked asks anew.
    """
    suffix = f".{socket.gethostname()}"
    with suppress(OSError):  # not readable, of another user, or removed by another process just now
        for name in os.listdir(folder):
            rest, _, number = name.rpartition(".")
            if name.startswith(".") and rest.endswith(suffix) and number.isdecimal() and not _lives(int(number)):
                os.unlink(os.path.join(folder, name))


def _lives(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is no mere question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
