"""The kernel of one layer: a mixture of Gaussians and the rule for its bandwidth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from fastmmd.dtypes import accumulation_dtype
from fastmmd.transforms import readable

RULES = ("mean", "mean_all", "median")
MAX_GAUSSIANS = 64  # in one mixture


class StaticGaussian(NamedTuple):
    """What a computation depends on besides the values of tensors; hashable, so that it can key caches.

    rule: of the bandwidth: "mean", "mean_all", "median", "number" or "tensor".
    number: the bandwidth where the rule is "number", else 1.
    multipliers: ascending.
    weights: one per multiplier; ones where they are a tensor.
    """

    rule: str
    number: float
    multipliers: tuple[float, ...]
    weights: tuple[float, ...]
    detach_bandwidth: bool

    @property
    def follows_mean(self) -> bool:
        """Whether the backend takes the bandwidth from the mean distance by itself."""
        return self.detach_bandwidth and self.rule in ("mean", "mean_all")

    @property
    def needs_bandwidth(self) -> bool:
        """Whether the bandwidth must be computed before a backend runs."""
        return not self.follows_mean and self.rule != "number"


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian:
    """``k(x, y) = sum_q weights[q] * exp(-||x - y||^2 / (multipliers[q] * B))``.

    The default is the kernel of DAN and JAN (Long et al. 2015, 2017): five Gaussians in geometric progression of ratio
    2 around the mean squared distance of the pooled batch, so ``k(x, x) = 5``. ``Gaussian(2.0)`` is five as well,
    around 2; one Gaussian is ``Gaussian(2.0, (1,))``, and ``Gaussian(1.68, (1,))`` is JAN's for softmax outputs.

    Args:
        bandwidth: B. ``"mean"``: mean squared distance over the ``N^2 - N`` ordered pairs i != j of the pooled batch
            (source and target together). ``"mean_all"``: the same sum over ``N^2``. ``"median"``: the exact (lower)
            median of the pooled squared distances, i != j. A positive number or a 0-d tensor: B itself; a tensor
            that requires grad receives its gradient.
        multipliers: positive factors of B, one Gaussian each (1 to 64). In ratio 2 they share ``exp``s.
        weights: weights of the Gaussians, non-negative numbers; 1 each by default. A ``[Q]`` tensor, one weight per
            multiplier, may change from call to call and receives its gradient. It costs one pass per Gaussian, in a
            joint loss one per combination of the Gaussians of all layers.
        detach_bandwidth: with the rules "mean" and "mean_all", whether B counts as a constant for the gradient, as in
            every public implementation. False differentiates through it. The median is always a constant.

    Raises:
        ValueError, TypeError: an argument is out of its range, named in the message.

    Example:
        >>> from fastmmd import Gaussian
        >>> Gaussian(2.0, (1,)) == Gaussian(1.0, (2,))  # the same kernel, but another bandwidth
        False
        >>> Gaussian("median", multipliers=(0.5, 1, 2), weights=(1, 2, 1)).weights
        (1.0, 2.0, 1.0)
    """

    bandwidth: str | float | Tensor = "mean"
    multipliers: Sequence[float] = (0.25, 0.5, 1, 2, 4)
    weights: Sequence[float] | Tensor | None = None
    detach_bandwidth: bool = True
    static: StaticGaussian = field(init=False)

    def __post_init__(self) -> None:
        multipliers = _numbers("multipliers", self.multipliers)
        if not 1 <= len(multipliers) <= MAX_GAUSSIANS or not all(0 < m < math.inf for m in multipliers):
            raise ValueError(f"multipliers: expected 1 to {MAX_GAUSSIANS} positive numbers, got {self.multipliers!r}")
        if not isinstance(self.detach_bandwidth, bool):  # not by checks.py, which imports this file
            raise TypeError(f"detach_bandwidth: expected a bool, got {self.detach_bandwidth!r}")
        rule, number = _rule_and_number(self.bandwidth)
        if not self.detach_bandwidth and self.bandwidth == "median":
            raise ValueError("detach_bandwidth: the median rule has no useful gradient; use 'mean' or 'mean_all'")
        weights: Sequence[float] | Tensor
        if isinstance(self.weights, Tensor):
            weights = self.weights
            _check_weights_tensor(weights, len(multipliers))
            static_weights = (1.0,) * len(multipliers)
        else:
            weights = static_weights = _static_weights(self.weights, len(multipliers))
        object.__setattr__(self, "multipliers", multipliers)
        object.__setattr__(self, "weights", weights)
        ascending, ordered_weights = zip(*sorted(zip(multipliers, static_weights, strict=True)), strict=True)
        static = StaticGaussian(rule, number, ascending, ordered_weights, self.detach_bandwidth)
        object.__setattr__(self, "static", static)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The arguments that are tensors, by name: "bandwidth", "weights"."""
        arguments = {"bandwidth": self.bandwidth, "weights": self.weights}
        return {name: value for name, value in arguments.items() if isinstance(value, Tensor)}

    @property
    def size(self) -> float | Tensor:
        """``sum_q |weights[q]|``, detached: of this size are the terms of k."""
        if isinstance(self.weights, Tensor):
            weights = self.weights.detach()
            return weights.abs().sum(dtype=accumulation_dtype(weights.device))
        return sum(self.weights)  # type: ignore[arg-type]

    @property
    def at_zero(self) -> float | Tensor:
        """``k(x, x) = sum_q weights[q]``, detached. Weights that are a tensor may be negative."""
        if isinstance(self.weights, Tensor):
            weights = self.weights.detach()
            return weights.sum(dtype=accumulation_dtype(weights.device))
        return sum(self.weights)  # type: ignore[arg-type]

    def single(self, index: int) -> Gaussian:
        """The Gaussian of one multiplier alone, with weight 1."""
        return Gaussian(self.bandwidth, (self.multipliers[index],), None, self.detach_bandwidth)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gaussian):
            return NotImplemented
        tensors, others = self.tensors, other.tensors
        return (
            self.static == other.static
            and tensors.keys() == others.keys()
            and all(tensors[name] is others[name] for name in tensors)
        )

    def __hash__(self) -> int:
        return hash(self.static)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and pickles, those of other versions too, restore the arguments; the rest follows from them."""
        arguments = ("bandwidth", "multipliers", "weights", "detach_bandwidth")
        self.__init__(**{name: state[name] for name in arguments})  # type: ignore[misc]

    def __repr__(self) -> str:
        """The arguments that differ from the defaults."""
        default = Gaussian.__dataclass_fields__
        positional = [_shown(self.bandwidth)]
        if self.multipliers != default["multipliers"].default:
            positional.append(_shown(self.multipliers))
        elif self.bandwidth == "mean":
            positional = []
        keywords = []
        if isinstance(self.weights, Tensor) or set(self.weights or ()) != {1.0}:
            keywords.append(f"weights={_shown(self.weights)}")
        if not self.detach_bandwidth:
            keywords.append("detach_bandwidth=False")
        return f"Gaussian({', '.join([*positional, *keywords])})"


def _shown(argument: object) -> str:
    """In a repr. Tensors without their values, which may be many or on a device that a repr should not wait for."""
    return f"<tensor {tuple(argument.shape)}>" if isinstance(argument, Tensor) else repr(argument)


def _static_weights(given: object, count: int) -> tuple[float, ...]:
    weights = (1.0,) * count if given is None else _numbers("weights", given)
    if len(weights) != count:
        raise ValueError(f"weights: expected {count} numbers, one per multiplier, got {len(weights)}")
    if not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise ValueError(f"weights: expected non-negative numbers, not all 0, got {given!r}")
    return weights


def _check_weights_tensor(weights: Tensor, count: int) -> None:
    if weights.shape != (count,) or not weights.is_floating_point():
        raise ValueError(
            f"weights: expected {count} numbers or a floating-point tensor of shape ({count},), one per multiplier, "
            f"got {weights.dtype} {tuple(weights.shape)}"
        )


def _numbers(name: str, values: object) -> tuple[float, ...]:
    try:
        if isinstance(values, str):
            raise TypeError
        given = list(values)  # type: ignore[call-overload]
        numbers = tuple([float(value) for value in given if not (isinstance(value, Tensor) and value.requires_grad)])
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a sequence of numbers, got {values!r}") from None
    if len(numbers) != len(given):
        raise TypeError(f"{name}: expected numbers, got tensors that require grad, whose gradient would be lost")
    return numbers


def _rule_and_number(bandwidth: object) -> tuple[str, float]:
    """`StaticGaussian`'s rule and number of a bandwidth."""
    expected = f"one of {RULES}, a positive number or a floating-point 0-d tensor"
    if isinstance(bandwidth, Tensor):
        if bandwidth.dim() != 0 or not bandwidth.is_floating_point():
            raise ValueError(f"bandwidth: expected {expected}, got {bandwidth.dtype} {tuple(bandwidth.shape)}")
        # A tensor on an accelerator is not read: that would wait for the device.
        if readable(bandwidth) and not bandwidth.requires_grad and not 0 < bandwidth.item() < math.inf:
            raise ValueError(f"bandwidth: expected a positive, finite value, got {bandwidth.item()}")
        return "tensor", 1.0
    if isinstance(bandwidth, str):
        if bandwidth not in RULES:
            raise ValueError(f"bandwidth: expected {expected}, got {bandwidth!r}")
        return bandwidth, 1.0
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, Real):
        raise TypeError(f"bandwidth: expected {expected}, got {bandwidth!r}")
    try:
        number = float(bandwidth)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    if not 0 < number < math.inf:
        raise ValueError(f"bandwidth: expected a positive number, got {number}")
    return "number", number
