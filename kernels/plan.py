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
# A GPU's fp32 exp2 is right to 2 ulp, and each squaring doubles the relative error: four bring it to 4e-6, far below
# the round-off of TF32 and bf16. fp64's is right to 1.
MAX_SQUARINGS, MAX_SQUARINGS_OF_FP32 = 4, 2
MOST_RELATIVE = 2.0**20  # slopes over the broadest Gaussian's: fp32 holds them, and what they are multiplied by


@dataclass(frozen=True)
class Mixture:
    """A layer's kernel at compile time: Gaussians, broadest first; where ``squares[q]``, Gaussian q is the square of
    the one before it. slope_factors: weights over multipliers, all over `slope_scale`, which makes 1 of the first, or
    of the largest where that is much larger."""

    multipliers: tuple[float, ...]
    weights: tuple[float, ...]
    slope_factors: tuple[float, ...]
    slope_scale: float
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
        floats whose fp32 values add up to it, right to 48 bits; a change (a ramp, a smaller last batch) does not. Of a
        weighted problem alpha, beta and gamma count an ordered pair once: its weight is the form's.
    """

    layers: Layers
    numbers: tuple[float, ...]


@lru_cache(maxsize=256)
def make_plan(problem: Problem, dtype: torch.dtype, format: str) -> Plan:
    """`format`: of the products' operands."""
    exact = dtype == torch.float32 and format in ("ieee", "tf32x3")
    squarings = MAX_SQUARINGS_OF_FP32 if exact else MAX_SQUARINGS
    scales = [layer.bandwidth_scale for layer in problem.layers]
    alpha, beta, gamma, diagonal = problem.pair_weights
    if problem.weighted:
        alpha, beta, gamma = 1.0, 1.0, 2.0
    numbers = [alpha, beta, gamma, diagonal, problem.joint, *problem.marginal, *scales]
    return Plan(
        layers=Layers(tuple([_mixture(layer, squarings) for layer in problem.layers])),
        numbers=tuple([half for number in numbers for half in _two_floats(number)]),
    )


def _mixture(layer: LayerKernel, max_squarings: int) -> Mixture:
    multipliers, weights = layer.multipliers[::-1], layer.weights[::-1]
    squares, chain = [False], 0
    for broader, multiplier in pairwise(multipliers):
        chain = chain + 1 if broader == 2 * multiplier and chain < max_squarings else 0
        squares.append(chain > 0)
    slopes = [weight / multiplier for weight, multiplier in zip(weights, multipliers, strict=True)]
    largest = max(slopes, key=abs)
    scale = (slopes[0] if abs(largest) <= MOST_RELATIVE * abs(slopes[0]) else largest) or 1.0
    return Mixture(
        multipliers=multipliers,
        weights=weights,
        slope_factors=tuple([slope / scale for slope in slopes]),
        slope_scale=scale,
        squares=tuple(squares),
        follows_mean=layer.follows_mean,
        at_zero=layer.at_zero,
    )


def _two_floats(number: float) -> tuple[float, float]:
    limit = float(np.finfo(np.float32).max)
    number = min(max(number, -limit), limit)
    high = float(np.float32(number))
    return high, number - high
