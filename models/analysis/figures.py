"""Figures of results; each is saved as PNG and, beside it, PDF. Colours are safe for the colour-blind."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from fastmmd.models.analysis.accuracy import Spread, class_accuracy
from fastmmd.models.analysis.one_against_all import Rates
from fastmmd.models.files import write_atomically

# Okabe & Ito's palette, told apart under every common colour blindness.
COLOURS = ("#999999", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00")

# With more classes than this, percentages no longer fit into their cells, nor every class name beside its row.
READABLE = 20


def confusions(
    matrices: Mapping[str, np.ndarray], classes: Sequence[str], path: Path, title: str | None = None
) -> None:
    """Draws confusion matrices of counts [label, prediction] by name as percent of each label.

    Above `READABLE` classes the cells have no text, about `READABLE` ticks remain, and the size grows no more.
    """
    columns = min(len(matrices), 2 if len(matrices) <= 4 else 3)
    rows = math.ceil(len(matrices) / columns)
    longest = max(map(len, classes))
    side = 1.5 + 0.4 * min(len(classes), READABLE) + 0.05 * longest
    ticks = range(0, len(classes), math.ceil(len(classes) / READABLE))
    names = [classes[tick] for tick in ticks]
    figure = Figure(figsize=(side * columns, side * rows), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
    for place, ((name, matrix), axes) in enumerate(zip(matrices.items(), grid, strict=False)):
        percent = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(percent)
        values = {"include_values": len(classes) <= READABLE, "values_format": ".0f"}
        display.plot(ax=axes, cmap="cividis", colorbar=False, im_kw={"vmin": 0, "vmax": 100}, **values)
        if display.text_ is not None:
            for text in display.text_.flat:
                text.set_visible(text.get_text() != "0")
                text.set_color("black" if float(text.get_text()) > 55 else "white")
        axes.set_xticks(ticks, names, **turned)
        axes.set_yticks(ticks, names)
        axes.set(title=name, xlabel="predicted", ylabel="label (each row: 100 %)" if place % columns == 0 else "")
    for axes in grid:  # what the loop above left over
        axes.axis("off")
    figure.suptitle(title)
    save(figure, path)


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
        labels = [f"{bar.get_width():.0f}" if count else "no images" for bar, count in zip(bars, counts, strict=True)]
        axes.bar_label(bars, labels, padding=3, fontsize=size)
    ticks = range(0, len(names), math.ceil(len(names) / 100))
    axes.set_yticks(ticks, [names[tick] for tick in ticks], fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(title=title, xlabel="accuracy, %", ylabel="class (images)", xlim=(0, 108))
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def by_class(
    matrices: Mapping[str, np.ndarray],
    classes: Sequence[str],
    path: Path,
    title: str | None = None,
    leave_out: Collection[str] = (),
    spread: Spread = "binomial",
) -> None:
    """Draws the accuracy of each class and method as grouped bars, as figures 2 and 3 of He & Ding 2020.

    Args:
        matrices: method -> counts [label, prediction], or one such matrix a fold [folds, label, prediction].
        classes: class names in label order.
        path: of the PNG.
        title: of the figure.
        leave_out: classes that are not drawn; the paper leaves out anger, of which it tests a single image a fold.
        spread: what the lines on the bars show, see `class_accuracy`.

    Raises:
        ValueError: `leave_out` names no class, or the methods were tested on different numbers of images.
    """
    absent = [name for name in leave_out if name not in classes]
    if absent:
        raise ValueError(f"leave_out: expected some of the classes {list(classes)}, got {absent}")
    totals = {name: np.sum(m, axis=-1).reshape(-1, len(classes)).sum(axis=0) for name, m in matrices.items()}
    counts = next(iter(totals.values()))
    for name, total in totals.items():
        if not np.array_equal(total, counts):
            raise ValueError(
                f"{name}: expected {counts.tolist()} images of each class, as the others, got {total.tolist()}"
            )
    kept = [k for k, name in enumerate(classes) if name not in leave_out]
    width = 0.82 / len(matrices)
    size = (max(5.0, 1.5 + len(kept) * (0.5 + 0.17 * len(matrices))), 4.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for place, (name, matrix) in enumerate(matrices.items()):
        accuracy, low, high = (values[kept] for values in class_accuracy(matrix, spread))
        axes.bar(
            np.arange(len(kept)) + (place - (len(matrices) - 1) / 2) * width,
            accuracy,
            width=0.92 * width,
            yerr=np.maximum([accuracy - low, high - accuracy], 0),  # rounding may leave -1e-15
            color=COLOURS[place % len(COLOURS)],
            label=name,
            error_kw={"elinewidth": 0.9, "ecolor": "#333333"},
        )
    axes.set_xticks(range(len(kept)), [f"{classes[k]}\n({counts[k]})" for k in kept])
    lines = "95 % interval" if spread == "binomial" else "one standard deviation over folds"
    axes.set(ylabel="accuracy, %", xlabel=f"class (test images); lines: {lines}")
    axes.set_ylim(0, min(axes.get_ylim()[1], 100))
    axes.set_xlim(-0.55, len(kept) - 0.45)
    axes.tick_params(axis="x", length=0)
    _open_grid(axes)
    figure.legend(loc="outside upper center", ncols=_columns(matrices, size[0]), frameon=False)
    axes.set_title(title)
    save(figure, path)


def one_against_all(
    results: Mapping[str, Rates], classes: Sequence[str], path: Path, title: str | None = None, lines: bool = True
) -> None:
    """Draws how well each class is told from all others, as figures 8 to 10 of Rao, Xu & Xu.

    Above the true-positive rate of each class, below the mean of the rates of both sides, Machajdik & Hanbury's
    measure, where chance is 50 %.

    Args:
        results: method -> rates on the same items.
        classes: class names in label order.
        path: of the PNG.
        title: of the figure.
        lines: whether to draw Wilson's 95 % interval of each true-positive rate. It is too short where items depend on
            each other, such as several drawings of one face.
    """
    counts = next(iter(results.values())).items
    width = 0.82 / len(results)
    size = (max(5.0, 2.0 + len(classes) * (0.55 + 0.17 * len(results))), 6.4)
    figure = Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for place, (name, one) in enumerate(results.items()):
        places = np.arange(len(classes)) + (place - (len(results) - 1) / 2) * width
        style = {"width": 0.92 * width, "color": COLOURS[place % len(COLOURS)]}
        low, high = one.interval
        ends = np.maximum([one.positive - low, high - one.positive], 0) if lines else None
        above.bar(
            places, one.positive, yerr=ends, error_kw={"elinewidth": 0.9, "ecolor": "#333333"}, label=name, **style
        )
        below.bar(places, one.both, **style)
    below.axhline(50, color="#333333", linewidth=0.9, linestyle="--")
    below.annotate(
        "chance", (1, 50), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points", va="center"
    )
    below.set_xticks(range(len(classes)), [f"{name}\n({count})" for name, count in zip(classes, counts, strict=True)])
    above.set(ylabel="true-positive rate, %", ylim=(0, 100))
    below.set(
        ylabel="mean of both sides' rates, %",
        ylim=(0, 100),
        xlabel=f"class against all others (images){'; lines: 95 % interval' if lines else ''}",
    )
    below.set_xlim(-0.55, len(classes) - 0.45)
    for axes in (above, below):
        axes.tick_params(axis="x", length=0)
        _open_grid(axes)
    bars = above.get_legend_handles_labels()
    figure.legend(*bars, loc="outside upper center", ncols=_columns(results, size[0]), frameon=False)
    above.set_title(title)
    save(figure, path)


def methods(results: Mapping[str, Mapping[str, Sequence[float]]], title: str, path: Path) -> None:
    """Draws accuracies by task and method: a bar for the mean over seeds, a point for each seed.

    Args:
        results: task -> method -> accuracies in percent, one a seed.
    """
    names = list(dict.fromkeys(name for rows in results.values() for name in rows))
    bars = max(map(len, results.values()))
    columns = len(results) if len(results) <= 3 else 2
    lines = math.ceil(len(results) / columns)
    size = (1.2 + max(3.0, 0.95 * bars) * columns, 0.8 + 3.4 * lines)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, (task, rows) in zip(grid, results.items(), strict=False):
        for place, (name, accuracies) in enumerate(rows.items()):
            mean = float(np.mean(accuracies))
            axes.bar(place, mean, width=0.7, color=COLOURS[names.index(name) % len(COLOURS)])
            spread = np.linspace(-0.15, 0.15, len(accuracies)) if len(accuracies) > 1 else [0.0]
            axes.scatter(place + np.asarray(spread), accuracies, s=22, color="white", edgecolor="black", zorder=3)
            axes.text(place, 2, f"{mean:.1f}", ha="center", va="bottom", fontweight="bold")
        axes.set_xticks(range(len(rows)), [textwrap.fill(name, 11) for name in rows])
        axes.set(title=task, ylim=(0, 100))
        _open_grid(axes)
    for axes in grid[len(results) :]:
        axes.axis("off")
    figure.supylabel("accuracy on unseen test images, %", fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    save(figure, path)


def sweep(
    results: Mapping[str, Mapping[float, Sequence[float]]],
    path: Path,
    title: str | None = None,
    weight: str = "eta (lambda = 1 - eta)",
    published: Mapping[str, Mapping[float, float]] | None = None,
) -> None:
    """Draws accuracy against a weight of the loss, as figure 4 of He & Ding 2020: a line a task, a dot a run.

    Args:
        results: task -> weight -> accuracies in percent, one a fold or seed. The line goes through their means.
        path: of the PNG.
        title: of the figure.
        weight: what is swept.
        published: task -> weight -> accuracy in percent, drawn dashed in the task's colour.

    Raises:
        ValueError: `published` has a task that `results` has not.
    """
    published = published or {}
    unknown = [task for task in published if task not in results]
    if unknown:
        raise ValueError(f"published: expected some of the tasks {list(results)}, got {unknown}")
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (task, by_weight) in enumerate(results.items()):
        colour = COLOURS[-1 - place % len(COLOURS)]  # the strongest first
        weights = sorted(by_weight)
        axes.plot(weights, [np.mean(by_weight[w]) for w in weights], "o-", ms=5, color=colour, label=task)
        points = [(w, accuracy) for w in weights for accuracy in by_weight[w]]
        axes.scatter(*zip(*points, strict=True), s=9, color=colour, alpha=0.6, linewidth=0)
        if task in published:
            reported = sorted(published[task].items())
            axes.plot(*zip(*reported, strict=True), "s--", ms=5, color=colour, mfc="white", label=f"{task}, published")
    axes.set(xlabel=weight, ylabel="accuracy, %")
    axes.set_xticks(sorted({w for by_weight in results.values() for w in by_weight}))
    _open_grid(axes)
    low, high = axes.get_ylim()
    more = max(0.0, (10 - (high - low)) / 2)  # so that one image more or less does not look like a cliff
    axes.set_ylim(low - more, high + more)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", frameon=False, title="lines: means, dots: runs", alignment="left")
    axes.set_title(title)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes `path` (PNG) and the same figure beside it as PDF, whose text stays text and which has no date.

    Raises:
        ValueError: `path` does not end in .png.
    """
    if path.suffix != ".png":
        raise ValueError(f"path: expected a name that ends in .png, got {str(path)!r}")
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for kind, options in (("png", {"dpi": 150}), ("pdf", {"metadata": {"CreationDate": None}})):
            with write_atomically(path.with_suffix(f".{kind}"), "wb") as file:
                figure.savefig(file, format=kind, **options)


def _columns(names: Collection[str], width: float) -> int:
    """How many columns of a legend fit into a figure of `width` inches."""
    return max(1, min(len(names), int(width / (0.7 + 0.09 * max(map(len, names))))))


def _open_grid(axes: Axes) -> None:
    """Axes without a frame, with horizontal lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, alpha=0.3)
    axes.set_axisbelow(True)
