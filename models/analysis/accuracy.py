"""Accuracy of each class, with its uncertainty."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import binomtest

Spread = Literal["binomial", "folds"]


def class_accuracy(matrix: np.ndarray, spread: Spread = "binomial") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy of each class in percent, pooled over folds, with the ends of a bar for its uncertainty.

    Args:
        matrix: counts [label, prediction] or [folds, label, prediction].
        spread: "binomial" for Wilson's 95 % interval of the pooled count, which knows the number of images only; or
            "folds" for one standard deviation (n - 1) over folds to either side, cut at 0 and 100.

    Returns:
        Accuracy, lower and upper end, [classes] each; NaN for a class without images.

    Raises:
        ValueError: `matrix` is no stack of square matrices, or spread "folds" has less than two folds.
    """
    folds = np.asarray(matrix)
    if folds.ndim not in (2, 3) or folds.shape[-1] != folds.shape[-2]:
        raise ValueError(f"matrix: expected [folds, classes, classes] or [classes, classes], got {folds.shape}")
    folds = folds.reshape(-1, *folds.shape[-2:])
    correct, total = folds.diagonal(axis1=1, axis2=2), folds.sum(axis=2)
    pooled = _percent(correct.sum(axis=0), total.sum(axis=0))
    if spread == "binomial":
        low, high = wilson(correct.sum(axis=0), total.sum(axis=0))
        return pooled, low, high
    if len(folds) < 2:
        raise ValueError(f"spread 'folds': expected at least two folds, got {len(folds)}")
    by_fold = np.ma.masked_invalid(_percent(correct, total))  # a fold may be without images of a class
    deviation = by_fold.std(axis=0, ddof=1).filled(np.nan)
    return pooled, np.maximum(pooled - deviation, 0), np.minimum(pooled + deviation, 100)


def wilson(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Wilson's 95 % interval of correct / total in percent, [2, classes] lower and upper ends; NaN where total is 0.

    It takes the items for independent of each other.

    Args:
        correct, total: [classes] counts.
    """
    counts = zip(correct.tolist(), total.tolist(), strict=True)
    ends = [binomtest(*count).proportion_ci(method="wilson") if count[1] else (np.nan, np.nan) for count in counts]
    return 100 * np.transpose(ends)


def _percent(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(100 * correct, total, out=np.full(total.shape, np.nan), where=total > 0)
