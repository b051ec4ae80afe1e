"""Backends: modules that compute a `Call`. Each has the functions of `Backend` and may have a `Config`.

Every backend is deterministic: the same inputs give the same bits. Adding one: docs/add_a_backend.md.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from fastmmd.call import Call, Result


class Backend(Protocol):
    def unavailable(self, device: torch.device) -> str | None:
        """Why it can't compute on a device; None if it can."""

    def supports(self, call: Call) -> str | None:
        """Why it can't compute a call on a device where it is available; None if it can. Reads no tensor's values."""

    def run(self, call: Call, config: Any = None) -> Result:
        """The loss with its gradients. config: how it is computed (route, sizes); None: as its launch rules say."""
