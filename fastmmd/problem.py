"""The one problem that every backend solves, as static data.

A backend gets layers ``Z_l [N, d_l]``, whose first ``n_source`` rows are the source, and computes with
``k_l = sum_q weights[q] exp(-||z_i - z_j||^2 / (scales[q] * B_l))`` the values

    value_t = alpha * S_ss + beta * S_tt + gamma * S_st + diagonal * kappa,      t = product of all layers, each layer

(S_ss, S_tt: sums over ordered pairs i != j inside a domain; S_st: over all cross pairs; kappa: the value at distance
0), their combination ``joint * value_product + sum_l marginal[l] * value_l``, and its gradient in every Z_l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fastmmd.gaussian import Gaussian

MAX_LAYERS = 8


@dataclass(frozen=True)
class LayerKernel:
    """One layer's mixture. ``B_l = unit * base``: the base is the pooled mean of D_ij over i != j (``follows_mean``),
    or what the caller hands over as the layer's bandwidth, or 1."""

    scales: tuple[float, ...]  # ascending
    weights: tuple[float, ...]
    unit: float
    follows_mean: bool

    @property
    def at_zero(self) -> float:
        return sum(self.weights)


@dataclass(frozen=True)
class Problem:
    n_source: int
    n_target: int
    layers: tuple[LayerKernel, ...]
    joint: float
    marginal: tuple[float, ...]
    pair_weights: tuple[float, float, float, float]  # alpha, beta, gamma, diagonal
    clamp: bool  # a V-statistic is never negative: round-off below 0 is cut from the value, not from the gradient

    @property
    def n(self) -> int:
        return self.n_source + self.n_target

    @property
    def product_at_zero(self) -> float:
        kappa = 1.0
        for layer in self.layers:
            kappa *= layer.at_zero
        return kappa


def pair_weights(estimator: str, n: int, m: int) -> tuple[float, float, float, float]:
    """The V-statistic (Gretton et al. 2012, eq. 5) keeps the diagonal, the U-statistic (eq. 3) drops it."""
    if estimator == "biased":
        return 1 / n**2, 1 / m**2, -2 / (n * m), 1 / n + 1 / m
    return 1 / (n * (n - 1)), 1 / (m * (m - 1)), -2 / (n * m), 0.0


def make_problem(
    n_source: int,
    n_target: int,
    kernels: tuple[tuple, ...],
    joint: float,
    marginal: tuple[float, ...],
    estimator: str,
) -> Problem:
    """``kernels``: the ``static`` part of each layer's Gaussian."""
    layers = tuple(_layer_kernel(static, n_source + n_target) for static in kernels)
    weights = pair_weights(estimator, n_source, n_target)
    return Problem(n_source, n_target, layers, joint, marginal, weights, clamp=estimator == "biased")


cached_problem = lru_cache(maxsize=256)(make_problem)


def _layer_kernel(static: tuple, n: int) -> LayerKernel:
    bandwidth, scales, weights, detach = static
    if bandwidth in ("mean", "mean_all") and detach:
        return LayerKernel(scales, weights, 1.0 if bandwidth == "mean" else (n - 1) / n, follows_mean=True)
    unit = 1.0 if isinstance(bandwidth, str) else bandwidth
    return LayerKernel(scales, weights, unit, follows_mean=False)


def needs_bandwidth(kernels: Sequence[Gaussian]) -> bool:
    """Whether some layer's bandwidth must be computed before the backend runs."""
    for kernel in kernels:
        bandwidth, _, _, detach = kernel.static
        if bandwidth in ("median", "tensor") or (bandwidth in ("mean", "mean_all") and not detach):
            return True
    return False
