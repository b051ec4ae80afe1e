"""The one problem that every backend solves, as static data.

A backend gets layers ``Z_l [N, d_l]``, whose first ``n_source`` rows are the source, and computes with
``k_l(i, j) = sum_q weights[q] exp(-||z_i - z_j||^2 / (multipliers[q] * B_l))`` the values

    value_t = alpha * S_ss + beta * S_tt + gamma * S_st + diagonal * kappa,      t = product of all layers, each layer

(S_ss, S_tt: sums over ordered pairs i != j inside a domain; S_st: over all cross pairs; kappa: the value at distance
0), their combination ``joint * value_product + sum_l marginal[l] * value_l``, and its gradient in every Z_l.

Where the problem is weighted, every pair has its own weight ``W_i A W_j^T`` (`fastmmd.call.Form`), and

    value_t = sum over ordered pairs i != j of W_i A W_j^T k_t(i, j) + diagonal * kappa * sum_i W_i A W_i^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.gaussian import StaticGaussian

MAX_LAYERS = 8


class LayerKernel(NamedTuple):
    """One layer's mixture.

    multipliers: of the bandwidth, ascending.
    weights: one per multiplier.
    bandwidth_scale: ``B_l = bandwidth_scale * base``, where the base is the mean of D_ij over i != j of the pooled rows
        (``follows_mean``), or what the caller hands over as the layer's bandwidth, or 1.
    """

    multipliers: tuple[float, ...]
    weights: tuple[float, ...]
    bandwidth_scale: float
    follows_mean: bool

    @property
    def at_zero(self) -> float:
        return sum(self.weights)


class PairWeights(NamedTuple):
    """Weights of S_ss, S_tt and S_st, and of the value at distance 0: the only one that a weighted problem reads."""

    alpha: float
    beta: float
    gamma: float
    diagonal: float


class Problem(NamedTuple):
    """
    clamp: a V-statistic is never negative: round-off below 0 is clamped in the value, not in the gradient.
    weighted: pairs have the weights of the call's form.
    """

    n_source: int
    n_target: int
    layers: tuple[LayerKernel, ...]
    joint: float
    marginal: tuple[float, ...]
    pair_weights: PairWeights
    clamp: bool
    weighted: bool = False

    @property
    def n(self) -> int:
        return self.n_source + self.n_target

    @property
    def product_at_zero(self) -> float:
        kappa = 1.0
        for layer in self.layers:
            kappa *= layer.at_zero
        return kappa

    @property
    def at_zero(self) -> float:
        """Of the kernel of the whole loss, joint and marginal terms together."""
        terms = zip(self.marginal, self.layers, strict=True)
        return self.joint * self.product_at_zero + sum([weight * layer.at_zero for weight, layer in terms])

    @property
    def gaussians(self) -> int:
        """In the mixtures of all layers together."""
        return sum([len(layer.multipliers) for layer in self.layers])

    def combine(self, values: Sequence[Tensor] | Tensor) -> Tensor:
        """The loss from the value of the product and of each layer."""
        loss = self.joint * values[0]
        for weight, value in zip(self.marginal, values[1:], strict=True):
            loss = loss + weight * value
        return loss


class Objective(NamedTuple):
    """What is computed, whatever the sizes of the batches: a hashable key of caches.

    kernels: the static part of each layer's Gaussian.
    estimator: "biased" or "unbiased".
    weighted: whether a form says what a pair counts.
    clamp: whether a biased loss is known to be never negative, so that round-off below 0 is clamped.
    """

    kernels: tuple[StaticGaussian, ...]
    joint: float
    marginal: tuple[float, ...]
    estimator: str
    weighted: bool = False
    clamp: bool = True

    def problem(self, n_source: int, n_target: int) -> Problem:
        # A compiler would look inside the cache.
        make = _make_problem if torch.compiler.is_compiling() else _cached_problem
        return make(self, n_source, n_target)


def _make_problem(objective: Objective, n_source: int, n_target: int) -> Problem:
    return Problem(
        n_source=n_source,
        n_target=n_target,
        layers=tuple([_layer_kernel(kernel, n_source + n_target) for kernel in objective.kernels]),
        joint=objective.joint,
        marginal=objective.marginal,
        pair_weights=_pair_weights(objective, n_source, n_target),
        clamp=objective.clamp and objective.estimator == "biased",
        weighted=objective.weighted,
    )


_cached_problem = lru_cache(maxsize=256)(_make_problem)


def _pair_weights(objective: Objective, n: int, m: int) -> PairWeights:
    """The V-statistic (Gretton et al. 2012, eq. 5) keeps the diagonal, the U-statistic (eq. 3) drops it."""
    biased = objective.estimator == "biased"
    if objective.weighted:
        return PairWeights(alpha=0.0, beta=0.0, gamma=0.0, diagonal=float(biased))
    if biased:
        return PairWeights(alpha=1 / n**2, beta=1 / m**2, gamma=-2 / (n * m), diagonal=1 / n + 1 / m)
    return PairWeights(alpha=1 / (n * (n - 1)), beta=1 / (m * (m - 1)), gamma=-2 / (n * m), diagonal=0.0)


def _layer_kernel(kernel: StaticGaussian, n: int) -> LayerKernel:
    scale = (n - 1) / n if kernel.follows_mean and kernel.rule == "mean_all" else kernel.number
    return LayerKernel(kernel.multipliers, kernel.weights, scale, kernel.follows_mean)
