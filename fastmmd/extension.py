"""The compiled extension, ``fastmmd._C``: loaded once, and the reason kept when it can't be.

Structures are csrc/'s own (problem.h): they hold sizes and addresses, and whoever fills them keeps the tensors alive.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from fastmmd.problem import Problem

# The binding's version that this Python code was written for (csrc/problem.h).
ABI = 6
PACKAGE = Path(__file__).resolve().parent
SOURCE_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
REINSTALL = "run `pip install -e .` in the checkout" if SOURCE_CHECKOUT else "install fastmmd again"

module: ModuleType | None = None
reason: str | None = None


def _hidden_copy() -> Path | None:
    """An installed copy with compiled kernels that this source checkout goes before."""
    folders = [Path(entry, "fastmmd") for entry in sys.path] if SOURCE_CHECKOUT else []
    return next((folder for folder in folders if folder.resolve() != PACKAGE and any(folder.glob("_C*"))), None)


try:
    _C = import_module("fastmmd._C")
except ImportError as error:
    reason = f"fastmmd._C can't be imported ({error}); not built (FASTMMD_CPU=off), or not for this Python: {REINSTALL}"
    if hidden := _hidden_copy():
        reason = f"the source folder {PACKAGE} goes before {hidden}, which has the compiled kernels: {REINSTALL}"
        warnings.warn(f"fastmmd computes in plain torch, since {reason}, or start Python elsewhere", stacklevel=2)
else:
    if getattr(_C, "ABI", None) == ABI:
        module = _C
    else:
        reason = f"fastmmd._C has ABI {getattr(_C, 'ABI', None)}, this code needs {ABI}: {REINSTALL}"


@lru_cache(maxsize=256)
def make_problem(problem: Problem, dims: tuple[int, ...], form_columns: int = 0) -> Any:
    """The extension's form of a problem with layers of `dims` features. form_columns: those of W; 0 where there is no
    form."""
    assert module is not None
    layers = [
        module.Layer(
            dim=dim,
            multipliers=layer.multipliers,
            weights=layer.weights,
            bandwidth_scale=layer.bandwidth_scale,
            follows_mean=layer.follows_mean,
        )
        for layer, dim in zip(problem.layers, dims, strict=True)
    ]
    return module.Problem(
        n_source=problem.n_source,
        n_target=problem.n_target,
        layers=layers,
        joint=problem.joint,
        marginal=problem.marginal,
        pair_weights=problem.pair_weights,
        clamp=problem.clamp,
        form_columns=form_columns,
    )


def make_buffers(
    *,
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    bandwidths: Tensor | None,
    loss: Tensor,
    statistics: Tensor,
    workspace: Tensor,
    w: Tensor | None = None,
    wa: Tensor | None = None,
    kw: Tensor | None = None,
) -> Any:
    """What one call reads and writes. inputs: row-major, sources first, as their gradients are. w, wa, kw: of a form,
    ``[N, P]``, contiguous, in the computing dtype: W, W A where there is a loss (on a CPU in fp64), K W where it is
    wanted."""
    assert module is not None
    return module.Buffers(
        inputs=[x.data_ptr() for x in inputs],
        strides=[x.stride(0) for x in inputs],
        gradients=[0 if x is None else x.data_ptr() for x in gradients],
        given_bandwidth=data_ptr(bandwidths),
        w=data_ptr(w),
        wa=data_ptr(wa),
        kw=data_ptr(kw),
        loss=loss.data_ptr(),
        statistics=statistics.data_ptr(),
        workspace=workspace.data_ptr(),
    )


def data_ptr(x: Tensor | None) -> int:
    """An address; 0 stands for nothing."""
    return 0 if x is None else x.data_ptr()
