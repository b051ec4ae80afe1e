"""The one place where kernels are launched, so that launches can also be recorded: for compilation ahead of time, and
for counting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Launch(NamedTuple):
    """args: run-time arguments. options: compile-time constants, num_warps, num_stages."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


_recorder: list[Launch] | None = None


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """`args` in the kernel's order: as keywords they would take Triton's launcher a tenth more time."""
    if _recorder is None:
        kernel[grid](*args, **options)
    else:
        _recorder.append(Launch(kernel, grid, args, options))


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collects the launches inside instead of performing them."""
    global _recorder
    before, _recorder = _recorder, []
    try:
        yield _recorder
    finally:
        _recorder = before
