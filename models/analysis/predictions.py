"""The `predictions.csv` of a run: written, and those of one or several runs as arrays."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from fastmmd.models.files import write_atomically


@dataclass(frozen=True)
class Predictions:
    """What one method predicted for n images.

    Args:
        items: [n] names of the images.
        labels, predictions: [n] indices into `classes`.
        probabilities: [n, classes] in [0, 1].
        classes: class names in label order.
    """

    items: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def correct(self) -> np.ndarray:
        """[n] whether each image was classified correctly."""
        return self.labels == self.predictions

    @property
    def confusion(self) -> np.ndarray:
        """Counts [label, prediction]."""
        return confusion_matrix(self.labels, self.predictions, labels=range(len(self.classes)))

    def without(self, *classes: str) -> Predictions:
        """The images of all other classes; the classes themselves stay, as something to be predicted.

        Raises:
            ValueError: there is no such class.
        """
        absent = [name for name in classes if name not in self.classes]
        if absent:
            raise ValueError(f"without: expected some of the classes {list(self.classes)}, got {absent}")
        kept = ~np.isin(self.labels, [self.classes.index(name) for name in classes])
        items = tuple(item for item, keep in zip(self.items, kept, strict=True) if keep)
        return Predictions(items, self.labels[kept], self.predictions[kept], self.probabilities[kept], self.classes)


def write_predictions(
    path: Path, items: Iterable[str], labels: Iterable[int], probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes `predictions.csv`: a row an image, with the columns item, label, prediction, p_<class>...

    Args:
        path: of the file.
        items: [n] names of the images.
        labels: [n] indices into `classes`; of an item without a label -1, and its cell is empty.
        probabilities: [n, classes] in [0, 1]; the prediction is the class with the highest.
        classes: class names in label order.
    """
    rows = zip(items, labels, probabilities, strict=True)
    told = ((item, classes[label] if label >= 0 else "", classes[row.argmax()]) for item, label, row in rows)
    write_rows(path, ("item", "label", "prediction"), told, probabilities, classes)


def write_rows(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes a csv of probabilities.

    Args:
        path: of the file.
        header: names of the first columns; p_<class>... follow.
        rows: [n] what stands in the first columns.
        probabilities: [n, classes].
        classes: class names.
    """
    with write_atomically(path) as file:
        writer = csv.writer(file)
        writer.writerow([*header, *(f"p_{name}" for name in classes)])
        for row, found in zip(rows, probabilities, strict=True):
            writer.writerow([*row, *(f"{p:.6f}" for p in found.tolist())])


def read_predictions(*paths: Path) -> Predictions:
    """Reads `predictions.csv` files (columns item, label, prediction, p_<class>...) of one method, such as its folds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file given, other columns, a label that is no class, no rows, or files of different classes.
    """
    if not paths:
        raise ValueError("read_predictions: expected at least one file, got none")
    parts = [_read(path) for path in paths]
    classes = parts[0].classes
    for path, part in zip(paths, parts, strict=True):
        if part.classes != classes:
            raise ValueError(f"{path}: expected the classes {list(classes)} of {paths[0]}, got {list(part.classes)}")
    return Predictions(
        tuple(item for part in parts for item in part.items),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.predictions for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        classes,
    )


def paired(methods: Mapping[str, Predictions]) -> dict[str, np.ndarray]:
    """Which images each method classified correctly: name -> [n] booleans, image k being the same for all methods.

    Raises:
        ValueError: the methods were not tested on the same images with the same labels, or on one image twice (pool
            the disjoint folds of one random seed, not several seeds: their images are not independent).
    """
    orders: dict[str, list[int]] = {}
    tested: dict[str, list[tuple[str, str]]] = {}
    for name, found in methods.items():
        if len(set(found.items)) < len(found.items):
            raise ValueError(
                f"{name}: expected every image once, got {len(found.items)} rows for {len(set(found.items))}"
            )
        orders[name] = sorted(range(len(found.items)), key=found.items.__getitem__)
        tested[name] = [(found.items[k], found.classes[found.labels[k]]) for k in orders[name]]
    first, *others = methods
    for name in others:
        if tested[name] != tested[first]:
            different = len(set(tested[name]) ^ set(tested[first]))
            raise ValueError(f"{name}: expected the test images and labels of {first}, got {different} others")
    return {name: found.correct[orders[name]] for name, found in methods.items()}


def _read(path: Path) -> Predictions:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    classes = tuple(column.removeprefix("p_") for column in header[3:])
    if header != ["item", "label", "prediction", *(f"p_{name}" for name in classes)] or not rows:
        raise ValueError(f"{path}: expected the columns item, label, prediction, p_... and rows, got {header}")
    index = {name: k for k, name in enumerate(classes)}
    try:
        labels, predictions = (np.array([index[row[column]] for row in rows]) for column in (1, 2))
    except KeyError as error:
        raise ValueError(f"{path}: expected labels among {list(classes)}, got {error}") from None
    probabilities = np.array([row[3:] for row in rows], dtype=np.float64)
    return Predictions(tuple(row[0] for row in rows), labels, predictions, probabilities, classes)
