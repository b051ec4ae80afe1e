"""Fixtures of the tests that need a CUDA device: ``pytest tests/gpu -m gpu``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from bench import measure
from fastmmd import conditioning


@pytest.fixture(autouse=True)
def no_test_on_a_dead_device() -> Iterator[None]:
    """A kernel's fault fails whatever follows it in its process. pytest-xdist starts another process."""
    yield
    if (
        "PYTEST_XDIST_WORKER" in os.environ
        and torch.cuda.is_available()
        and not measure.usable(torch.device("cuda", 0))
    ):
        os._exit(3)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Deterministic algorithms fill new memory with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: no bandwidth was looked at, and nothing was warned of."""
    monkeypatch.setattr(conditioning, "_warned", set())
    conditioning._watch_of.cache_clear()
    conditioning._by_problem.clear()
