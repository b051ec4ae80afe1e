"""The compiled extension: loaded once, and the reason kept when it can't be."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from fastmmd.problem import Problem

# The binding's version that this Python code was written for (csrc/problem.h).
ABI = 3

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


@lru_cache(maxsize=256)
def problem(problem: Problem, dims: tuple[int, ...]) -> Any:
    """The extension's form of a problem with layers of `dims` features."""
    assert module is not None
    layers = [module.LayerSpec(k.scales, k.weights, k.unit, k.follows_mean) for k in problem.layers]
    return module.Problem(
        problem.n_source,
        problem.n_target,
        dims,
        layers,
        problem.joint,
        problem.marginal,
        problem.pair_weights,
        problem.clamp,
    )
