"""Each class against all others, on held-out items, with the measure of Machajdik & Hanbury 2010.

It is that of figures 8 to 10 of Rao, Xu & Xu. A set with few images of a class has many more of "all others", and a
classifier that always says no would be nearly always right; so the rates of both sides are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmmd.models.analysis.accuracy import wilson
from fastmmd.models.analysis.predictions import write_rows
from fastmmd.models.classifiers import held_out


@dataclass(frozen=True)
class Rates:
    """How well each class is told from all others, pooled over folds.

    Args:
        found: [classes] items of the class that were said to be of it.
        items: [classes] items of the class.
        rejected: [classes] items of all others that were said to be none of it.
        others: [classes] items of all others.
    """

    found: np.ndarray
    items: np.ndarray
    rejected: np.ndarray
    others: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """[classes] the true-positive rate of each class in percent."""
        return 100 * self.found / self.items

    @property
    def interval(self) -> np.ndarray:
        """[2, classes] ends of the interval of `positive`, see `wilson`."""
        return wilson(self.found, self.items)

    @property
    def both(self) -> np.ndarray:
        """[classes] mean of the true-positive rates of the class and of "all others" in percent; 50 is chance."""
        return (self.positive + 100 * self.rejected / self.others) / 2


def scores(name: str, features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """[n, classes] in [0, 1]: each class's probability by its own classifier, fitted to all other folds.

    Both sides weigh the same in each fit, however many items they have. Rows do not add to 1.

    Args:
        name: of the classifier, see `classifiers.classifier`.
        features: [n, d].
        labels: [n] in 0..classes - 1, none without items.
        folds: [n], the fold in which each item is tested.

    Raises:
        ValueError: less than two classes, a class without items, or arrays as `held_out` refuses them.
    """
    columns = [held_out(name, features, labels == label, folds, 2, True)[:, 1] for label in _classes(labels)]
    return np.stack(columns, axis=1)


def rates(found: np.ndarray, labels: np.ndarray) -> Rates:
    """Counts at a probability of 0.5, above which an item is said to be of the class.

    Args:
        found: [n, classes] of `scores`.
        labels: [n] in 0..classes - 1, none without items.

    Raises:
        ValueError: less than two classes, a class without items, or shapes that do not fit.
    """
    classes = _classes(labels)
    if found.shape != (len(labels), len(classes)):
        raise ValueError(f"found: expected the scores [{len(labels)}, {len(classes)}], got {list(found.shape)}")
    said, true = found > 0.5, labels[:, None] == classes
    return Rates((said & true).sum(axis=0), true.sum(axis=0), (~said & ~true).sum(axis=0), (~true).sum(axis=0))


def write_scores(
    path: Path,
    items: Sequence[str],
    folds: Iterable[int],
    labels: Iterable[int],
    found: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> None:
    """Writes a row an item and method, with the columns method, item, fold, label, p_<class>...

    A classifier for each class makes no choice among them, so that there is no prediction as in `write_predictions`.

    Args:
        path: of the file.
        items: [n] names of the images.
        folds: [n], the fold in which each was tested.
        labels: [n] indices into `classes`.
        found: method -> [n, classes] of `scores`.
        classes: class names in label order.
    """
    told = list(zip(items, folds, (classes[label] for label in labels), strict=True))
    rows = [(method, *row) for method in found for row in told]
    write_rows(path, ("method", "item", "fold", "label"), rows, np.concatenate(list(found.values())), classes)


def _classes(labels: np.ndarray) -> np.ndarray:
    classes = np.unique(labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(f"labels: expected at least two, 0, 1, ... without a gap, got {classes.tolist()}")
    return classes
