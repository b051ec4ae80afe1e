"""Is one method better than another, or luckier? Paired comparisons on the same test images or the same folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

from fastmmd.models.analysis.published import ACCURACY, METHODS, TESTED
from fastmmd.models.analysis.tables import Table


@dataclass(frozen=True)
class Pair:
    """Two methods on the same n images: how many only the one and only the other got right, and the p-values."""

    first: str
    second: str
    only_first: int
    only_second: int
    images: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Difference:
    """Mean difference of two methods over folds, in the unit of the input, with its confidence interval and p-value."""

    mean: float
    low: float
    high: float
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test: were the images that only one of two methods got right a fair coin's work?

    Args:
        first, second: [n] booleans, whether each method classified image k correctly.

    Returns:
        Images that only the first got right, that only the second got right, and the two-sided p-value of the binomial
        test (1 if there are none).

    Raises:
        ValueError: the arrays are not boolean or not of one length.
    """
    if first.dtype != bool or second.dtype != bool or first.ndim != 1 or first.shape != second.shape:
        shapes = f"{first.dtype} {first.shape} and {second.dtype} {second.shape}"
        raise ValueError(f"first, second: expected booleans [n] of one length, got {shapes}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differing).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: p-values [m] that hold for all m tests together, in the given order.

    The k-th smallest (from 0) is multiplied by m - k, made no smaller than the one before it, and cut at 1.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = raw.argsort()
    scaled = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def compare(correct: Mapping[str, np.ndarray]) -> list[Pair]:
    """McNemar's exact test of every pair of methods, with Holm's correction for their number.

    Args:
        correct: method -> [n] booleans over the same images, see `predictions.paired`.

    Raises:
        ValueError: less than two methods, or arrays as `mcnemar` refuses them.
    """
    if len(correct) < 2:
        raise ValueError(f"correct: expected at least two methods, got {list(correct)}")
    pairs = list(combinations(correct, 2))
    tests = [mcnemar(correct[first], correct[second]) for first, second in pairs]
    adjusted = holm([p for *_, p in tests])
    return [
        Pair(*pair, *test[:2], len(correct[pair[0]]), test[2], float(p_holm))
        for pair, test, p_holm in zip(pairs, tests, adjusted, strict=True)
    ]


def paired_difference(
    first: Sequence[float], second: Sequence[float], test_share: float = 0.0, confidence: float = 0.95
) -> Difference:
    """Mean of `first - second` over folds with Student's confidence interval and p-value.

    The training sets of folds overlap, so their results vary together and the plain interval is too narrow. Nadeau &
    Bengio, "Inference for the generalization error", Machine Learning 52, 2003, widen the variance of the mean from
    1/k to 1/k + n_test / n_train.

    Args:
        first, second: [k] results of two methods on the same k >= 2 folds, or seeds.
        test_share: n_test / n_train, such as 15/80 for He & Ding's folds; 0 is the plain paired t-test, for folds or
            seeds that are independent.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: less than two folds, or not as many of one as of the other.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"first, second: expected as many results, at least two, got {len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    folds, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) * math.sqrt(1 / folds + test_share)
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0))
    half = float(student.ppf((1 + confidence) / 2, folds - 1)) * error
    return Difference(mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error, folds - 1)))


def pairs_table(pairs: Sequence[Pair], task: str | None = None) -> Table:
    """A row a pair of methods, with what the p-values are below it.

    Args:
        pairs: of `compare`.
        task: one of He & Ding's, to say how many images their own margin is.
    """
    header = ("pair", "only first right", "only second right", "difference, images", "p", "p, Holm")
    rows = [
        (
            f"{pair.first} - {pair.second}",
            str(pair.only_first),
            str(pair.only_second),
            f"{pair.only_first - pair.only_second:+d} of {pair.images}",
            _written(pair.p),
            _written(pair.p_holm),
        )
        for pair in pairs
    ]
    clear = sum(pair.p_holm < 0.05 for pair in pairs)
    notes = [
        f"p: McNemar's exact test on the same {pairs[0].images} test images; Holm: corrected for {len(pairs)} pairs.",
        f"Pairs that differ at the 5 % level after correction: {clear} of {len(pairs)}.",
        *([published_margin(task)] if task is not None else []),
    ]
    return Table(header, rows, " ".join(notes))


def published_margin(task: str, first: str = "Ours", second: str = "JAN") -> str:
    """A sentence on how many images lie between two methods in He & Ding's table 2, and how many chance moves.

    The standard error is that of one method's count of correct images, sqrt(n p (1 - p)) at the mean p of both.

    Args:
        task: such as "F->I".
        first, second: columns of the table.

    Raises:
        ValueError: no such task or method.
    """
    if task not in ACCURACY or not {first, second} <= set(ACCURACY[task]):
        raise ValueError(f"expected a task of {list(ACCURACY)} and methods of {METHODS}, got {task}, {first}, {second}")
    images = TESTED[task]
    one, other = (ACCURACY[task][name] / 100 for name in (first, second))
    mean = (one + other) / 2
    lead, error = round(images * (one - other)), math.sqrt(images * mean * (1 - mean))
    return (
        f"In He & Ding's table 2, {first} is {abs(lead)} of {images} images {'ahead of' if lead >= 0 else 'behind'} "
        f"{second} on {task}, where one standard error of either count is about {error:.0f} images."
    )


def _written(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"
