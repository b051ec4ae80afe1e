"""The images that a method holds to be the surest examples of each class, as figure 2 of Rao, Xu & Xu."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch.utils.data import Dataset

from fastmmd.models.analysis.distributions import pictures
from fastmmd.models.analysis.figures import COLOURS, save
from fastmmd.models.analysis.predictions import Predictions

# Frames of images that have the row's class as label, and of others.
RIGHT, WRONG = {"color": COLOURS[5], "linestyle": "-"}, {"color": COLOURS[6], "linestyle": (0, (2.5, 1.5))}


def top(predictions: Predictions, k: int = 5) -> np.ndarray:
    """The k images with the highest probability of each class, the highest first; equal ones ordered by name.

    Whether another class is more probable still makes no difference, so an image can stand in several rows.

    Returns:
        [classes, k] rows of `predictions`; fewer than k columns where there are fewer images.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    names = np.array(predictions.items)
    return np.stack([np.lexsort((names, -column))[:k] for column in predictions.probabilities.T])


def precision(predictions: Predictions, k: int = 5) -> np.ndarray:
    """Precision at k: the part of the images in `top` that have the class as label, [classes] in [0, 1].

    A class with fewer than k images cannot reach 1.

    Raises:
        ValueError: k is below 1.
    """
    return _right(predictions, top(predictions, k)).mean(axis=1)


def draw(domain: Dataset, predictions: Predictions, path: Path, k: int = 5, title: str | None = None) -> None:
    """Draws the images of `top`, a row a class, each with its probability of that class.

    Where an image's label is another, its name stands beside the probability, and the frame is dashed. Below the name
    of each class stands how many of its row are right.

    Args:
        domain: where the pictures are, see `distributions.pictures`.
        predictions: of some of its items.
        path: of the PNG.
        k: images of a class.
        title: of the figure.

    Raises:
        ValueError: k is below 1, or the domain lacks an item.
    """
    rows = top(predictions, k)
    right = _right(predictions, rows)
    lines, columns = rows.shape
    size = (1.5 + 1.35 * columns, 1.5 * lines + 0.4 + 0.3 * (title is not None))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for line, name in enumerate(predictions.classes):
        shown = pictures(domain, [predictions.items[row] for row in rows[line]])
        for axes, row, picture, agrees in zip(grid[line], rows[line], shown, right[line], strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(linewidth=2.5, **(RIGHT if agrees else WRONG))
            label = "" if agrees else f": {predictions.classes[predictions.labels[row]]}"
            text = textwrap.fill(f"{predictions.probabilities[row, line]:.0%}{label}", 16)
            axes.set_xlabel(text, fontsize="small", color="black" if agrees else WRONG["color"])
        head = f"{textwrap.fill(name, 14)}\n{right[line].sum()} of {columns}"
        grid[line, 0].set_ylabel(head, rotation=0, ha="right", va="center", labelpad=8)
    meanings = {"right": RIGHT, "wrong, with its label": WRONG}
    keys = [Line2D([], [], linewidth=2.5, label=text, **style) for text, style in meanings.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, handlelength=3)
    figure.suptitle(title)
    save(figure, path)


def _right(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """Whether the images of each class's row have that class as label, of the shape of `rows`."""
    return predictions.labels[rows] == np.arange(len(rows))[:, None]
