"""What one test says beside its accuracy: macro-F1, balanced accuracy, and positive against negative emotions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score

from fastmmd.models.data.readers.classes import MIKELS, SENTIMENT, match_class
from fastmmd.models.files import write_atomically

# The names for people.
METRICS = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "polarity_accuracy": "positive against negative",
}
POSITIVE = ("amusement", "awe", "contentment", "excitement", "positive")


def report(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Metrics of one test, by the keys of `METRICS`, in [0, 1].

    * macro_f1, balanced_accuracy: means of F1 and of recall over the classes that have tested images. What was taken
      for a class that has none lowers the recall of the others.
    * polarity_accuracy: only where `polarity` knows all classes and both sides are among them. An image is taken for
      positive if the probabilities of all positive classes together exceed those of the negative ones: a network that
      wavers between two positive emotions is sure of the side, even if the class that it takes for the most probable
      one is negative.

    Args:
        labels: [n] indices into `classes`, n > 0.
        probabilities: [n, classes] in [0, 1]; the prediction is the class with the highest.
        classes: class names in label order.

    Raises:
        ValueError: no images, or shapes that do not agree.

    Example:
        >>> probabilities = np.array([[0.4, 0.35, 0.25], [0.4, 0.3, 0.3]])
        >>> found = report(np.array([0, 1]), probabilities, ["fear", "awe", "amusement"])
        >>> {name: round(value, 3) for name, value in found.items()}
        {'macro_f1': 0.333, 'balanced_accuracy': 0.5, 'polarity_accuracy': 0.5}
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if not len(labels) or probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"expected labels [n] and probabilities [n, {len(classes)}] of one image or more, "
            f"got {list(labels.shape)} and {list(probabilities.shape)}"
        )
    tested = {"labels": np.unique(labels), "average": "macro", "zero_division": 0}
    predictions = probabilities.argmax(axis=1)
    found = {
        "macro_f1": float(f1_score(labels, predictions, **tested)),
        "balanced_accuracy": float(recall_score(labels, predictions, **tested)),
    }
    positive = polarity(classes)
    if positive is not None:
        sides = probabilities[:, positive].sum(axis=1) > probabilities[:, ~positive].sum(axis=1)
        found["polarity_accuracy"] = float(accuracy_score(positive[labels], sides))
    return found


def polarity(classes: Sequence[str]) -> np.ndarray | None:
    """[classes] whether each is positive; None if one of them is of unknown polarity, or if all are of the same.

    Known are the eight emotions of Mikels et al., "Emotional category data on images from the International Affective
    Picture System" (Behavior Research Methods, 2005), who chose four positive ones (amusement, awe, contentment,
    excitement) and four negative ones (anger, disgust, fear, sadness), and the classes "positive" and "negative".
    Ekman's six are not: a surprise can be either.
    """
    names = [match_class(name, (*MIKELS, *SENTIMENT)) for name in classes]
    positive = np.array([name in POSITIVE for name in names])
    return None if None in names or positive.all() or not positive.any() else positive


def write_report(path: Path, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Writes `report` as JSON to `path`, and returns it. Arguments and errors as there."""
    found = report(labels, probabilities, classes)
    with write_atomically(path) as file:
        json.dump(found, file, indent=2)
    return found
