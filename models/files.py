"""Files that are either complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that appears at `path` when the block ends well; an interrupted block leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, mode, newline=None if "b" in mode else "") as file:
            yield file
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
