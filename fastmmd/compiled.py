"""The compiled extension: loaded once, and the reason kept when it can't be."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# The binding's version that this Python code was written for (csrc/problem.h).
ABI = 1

module: ModuleType | None = None
reason: str | None = None

try:
    _C = import_module("fastmmd._C")
except ImportError as caught:
    reason = (
        f"fastmmd._C can't be imported ({caught}); it was not built (FASTMMD_CPU=off), or not for this Python: "
        "run `pip install .` again"
    )
else:
    if getattr(_C, "ABI", None) == ABI:
        module = _C
    else:
        reason = f"fastmmd._C has ABI {getattr(_C, 'ABI', None)}, this code needs {ABI}: run `pip install .` again"
