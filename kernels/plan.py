"""A problem as the kernels see it: compile-time constants per layer, and run-time numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import triton.language as tl

from fastmmd.problem import LayerKernel, Problem

TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}
# The GPU's exp is right to 2 ulp, and each squaring doubles the relative error; fp64's is right to 1.
MAX_SQUARINGS = {torch.float32: 2, torch.float64: 4}


@dataclass(frozen=True)
class Mixture:
    """A layer's kernel at compile time: Gaussians, broadest first; where ``squares[q]``, Gaussian q is the square of
    the one before it."""

    multipliers: tuple[float, ...]
    weights: tuple[float, ...]
    squares: tuple[bool, ...]
    follows_mean: bool
    at_zero: float


@dataclass(frozen=True)
class Layers:
    """One constant for a kernel: not a tuple, since Triton 3.6 takes no nested ones."""

    mixtures: tuple[Mixture, ...]


class Plan(NamedTuple):
    """
    layers: compile-time constants; a change compiles the kernels anew.
    numbers: alpha, beta, gamma, diagonal, joint, then the marginals, then the layers' bandwidth scales, each as two
        floats whose fp32 values add up to it, right to 48 bits; a change (a ramp, a smaller last batch) does not.
    """

    layers: Layers
    numbers: tuple[float, ...]


@lru_cache(maxsize=256)
def make_plan(problem: Problem, dtype: torch.dtype) -> Plan:
    scales = [layer.bandwidth_scale for layer in problem.layers]
    numbers = [*problem.pair_weights, problem.joint, *problem.marginal, *scales]
    return Plan(
        layers=Layers(tuple([_mixture(layer, MAX_SQUARINGS[dtype]) for layer in problem.layers])),
        numbers=tuple([half for number in numbers for half in _two_floats(number)]),
    )


def _mixture(layer: LayerKernel, max_squarings: int) -> Mixture:
    multipliers, weights = layer.multipliers[::-1], layer.weights[::-1]
    squares, chain = [False], 0
    for broader, multiplier in pairwise(multipliers):
        chain = chain + 1 if broader == 2 * multiplier and chain < max_squarings else 0
        squares.append(chain > 0)
    return Mixture(multipliers, weights, tuple(squares), layer.follows_mean, layer.at_zero)


def _two_floats(number: float) -> tuple[float, float]:
    limit = float(np.finfo(np.float32).max)
    number = min(max(number, -limit), limit)
    high = float(np.float32(number))
    return high, number - high
