"""Figures: confusion matrices, per-class accuracy, methods compared. Colours are safe for the colour-blind."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from fastmmd.models.files import write_atomically

# Okabe & Ito's palette, told apart under every common colour blindness.
COLOURS = ("#999999", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00")

# With more classes than this, percentages no longer fit into their cells, nor every class name beside its row.
READABLE = 20


def confusions(
    matrices: Mapping[str, np.ndarray], classes: Sequence[str], path: Path, title: str | None = None
) -> None:
    """Draws confusion matrices of counts [label, prediction] by name, two a row, as percent of each label.

    Above `READABLE` classes the cells have no text, about `READABLE` ticks remain, and the size grows no more.
    """
    columns = min(len(matrices), 2)
    rows = math.ceil(len(matrices) / columns)
    longest = max(map(len, classes))
    side = 1.5 + 0.4 * min(len(classes), READABLE) + 0.05 * longest
    ticks = range(0, len(classes), math.ceil(len(classes) / READABLE))
    names = [classes[tick] for tick in ticks]
    figure = Figure(figsize=(side * columns, side * rows), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    turned = {"rotation": 45, "ha": "right"} if longest > 3 else {}
    for (name, matrix), axes in zip(matrices.items(), grid, strict=False):
        percent = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(percent)
        values = {"include_values": len(classes) <= READABLE, "values_format": ".0f"}
        display.plot(ax=axes, cmap="cividis", colorbar=False, im_kw={"vmin": 0, "vmax": 100}, **values)
        if display.text_ is not None:
            for text in display.text_.flat:
                text.set_visible(text.get_text() != "0")
        axes.set_xticks(ticks, names, **turned)
        axes.set_yticks(ticks, names)
        axes.set(title=name, xlabel="predicted", ylabel="label (each row: 100 %)")
    for axes in grid:  # what the loop above left over
        axes.axis("off")
    figure.suptitle(title)
    _save(figure, path)


def per_class(matrix: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """Draws the accuracy of each class from a confusion matrix of counts [label, prediction]."""
    counts = matrix.sum(axis=1)
    names = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True)]
    crowded = len(classes) > READABLE
    pitch, size = (0.16, "x-small") if crowded else (0.32, "medium")  # inches and font of a row
    width = 4.5 + 0.08 * max(map(len, names))
    figure = Figure(figsize=(width, 1.2 + pitch * min(len(classes), 100)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), 100 * matrix.diagonal() / np.maximum(counts, 1), color=COLOURS[5])
    if len(classes) <= 100:
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=size)
    ticks = range(0, len(names), math.ceil(len(names) / 100))
    axes.set_yticks(ticks, [names[tick] for tick in ticks], fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(title=title, xlabel="accuracy, %", ylabel="class (images)", xlim=(0, 108))
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def methods(results: Mapping[str, Mapping[str, Sequence[float]]], title: str, path: Path) -> None:
    """Draws accuracies by task and method: a bar for the mean over seeds, a point for each seed.

    Args:
        results: task -> method -> accuracies in percent, one a seed.
    """
    bars = max(map(len, results.values()))
    figure = Figure(figsize=(1.2 + max(3.0, 0.95 * bars) * len(results), 4.2), layout="constrained")
    for axes, (task, rows) in zip(
        figure.subplots(1, len(results), squeeze=False, sharey=True)[0], results.items(), strict=True
    ):
        for place, accuracies in enumerate(rows.values()):
            mean = float(np.mean(accuracies))
            axes.bar(place, mean, width=0.7, color=COLOURS[place % len(COLOURS)])
            spread = np.linspace(-0.15, 0.15, len(accuracies)) if len(accuracies) > 1 else [0.0]
            axes.scatter(place + np.asarray(spread), accuracies, s=22, color="white", edgecolor="black", zorder=3)
            axes.text(place, 2, f"{mean:.1f}", ha="center", va="bottom", fontweight="bold")
        axes.set_xticks(range(len(rows)), [textwrap.fill(name, 11) for name in rows])
        axes.set(title=task, ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.grid(True, alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("accuracy on the unseen target test images, %")
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with write_atomically(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
