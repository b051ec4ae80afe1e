"""Pictures beside the emotion distributions that are predicted for them, as figure 7 of Rao, Xu & Xu."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import Dataset

from fastmmd.models.analysis.figures import COLOURS, save
from fastmmd.models.analysis.predictions import Predictions
from fastmmd.models.data.sampling import item_names

# Of the methods: neighbours differ in brightness too.
BARS = tuple(COLOURS[k] for k in (5, 2, 3, 4, 1, 6, 0))

# Longer sides of what is drawn, in pixels: photographs in full size would make the files huge.
SIDE = 320


def choose(predictions: Predictions, count: int) -> tuple[str, ...]:
    """Images to show as an honest sample: whether they are classified correctly has no say, and nothing is random.

    Every class that has images gets as many as the others, the first classes one more where `count` does not divide
    evenly. Of a class's images, ordered by name, those at even distances are taken.

    Args:
        predictions: of these images and labels.
        count: how many; a class with too few images of its own gives what it has.

    Returns:
        Names in the order of the classes.
    """
    present = np.unique(predictions.labels)
    chosen: list[str] = []
    for place, label in enumerate(present):
        own = sorted(predictions.items[row] for row in np.flatnonzero(predictions.labels == label))
        share = min(count // len(present) + (place < count % len(present)), len(own))
        chosen += [own[(2 * k + 1) * len(own) // (2 * share)] for k in range(share)]
    return tuple(chosen)


def pictures(domain: Dataset, names: Sequence[str]) -> list[Image.Image]:
    """The domain's RGB pictures of these names, at most `SIDE` pixels wide and high.

    Args:
        domain: items are (RGB picture, label), named as `data.sampling.item_names` does.
        names: some of those.

    Raises:
        ValueError: the domain has no item of such a name.
    """
    places = {name: place for place, name in enumerate(item_names(domain))}
    absent = [name for name in names if name not in places]
    if absent:
        raise ValueError(f"names: expected items of the domain, got {absent[:5]}")
    found = []
    for name in names:
        picture = domain[places[name]][0].copy()
        picture.thumbnail((SIDE, SIDE))
        found.append(picture)
    return found


def draw(
    domain: Dataset, methods: Mapping[str, Predictions], names: Sequence[str], path: Path, title: str | None = None
) -> None:
    """Draws pictures, and beside each the probabilities of the classes in percent: a bar for each method.

    The label's name is bold, and a grey band lies behind its bars.

    Args:
        domain: where the pictures are, see `pictures`.
        methods: name -> predictions, of the images in `names` or more. Of a single one the name is not shown.
        names: images to draw, such as those of `choose`.
        path: of the PNG.
        title: of the figure.

    Raises:
        ValueError: no names; as `pictures`; a method has other classes than the first, or lacks an image.
    """
    if not names:
        raise ValueError("names: expected at least one image, got none")
    first, *_ = methods.values()
    rows = {}
    for method, found in methods.items():
        rows[method] = {item: row for row, item in enumerate(found.items)}
        lacking = [name for name in names if name not in rows[method]]
        if found.classes != first.classes or lacking:
            expected = f"expected the classes {list(first.classes)} and predictions of all images"
            raise ValueError(f"{method}: {expected}, got {list(found.classes)} and none of {lacking[:5]}")
    columns = min(len(names), 2 if len(names) <= 8 else 3)
    lines = math.ceil(len(names) / columns)
    longest = max(map(len, first.classes))
    height = max(1.5, 0.4 + len(first.classes) * (0.07 + 0.1 * len(methods)))
    size = ((3.6 + 0.075 * longest) * columns, height * lines + 0.5 + 0.3 * (title is not None))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(wspace=0.04)
    grid = figure.subplots(lines, 2 * columns, squeeze=False, width_ratios=[1, 1.2] * columns).reshape(-1, 2)
    for axes in grid.flat:
        axes.axis("off")
    for (left, right), name, picture in zip(grid, names, pictures(domain, names), strict=False):
        left.imshow(picture)
        left.set_title(name if len(name) <= 30 else f"…{name[-29:]}", fontsize="x-small", color="#555555")
        values = {method: found.probabilities[rows[method][name]] for method, found in methods.items()}
        _bars(right, values, first.classes, int(first.labels[next(iter(rows.values()))[name]]))
    keys = grid[0, 1].get_legend_handles_labels()[0] if len(methods) > 1 else []
    note = {"title": "probability, %; in bold: the label", "title_fontsize": "small", "fontsize": "small"}
    figure.legend(handles=keys, loc="outside lower center", ncols=max(len(keys), 1), frameon=False, **note)
    figure.suptitle(title)
    save(figure, path)


def _bars(axes: Axes, values: Mapping[str, np.ndarray], classes: Sequence[str], label: int) -> None:
    """Each method's probabilities [classes] as bars, one group a class."""
    axes.axis("on")
    axes.axhspan(label - 0.5, label + 0.5, color="#e4e4e4", zorder=0)
    width = 0.8 / len(values)
    for place, (method, probabilities) in enumerate(values.items()):
        heights = np.arange(len(classes)) + (place - (len(values) - 1) / 2) * width
        bars = axes.barh(heights, 100 * probabilities, 0.9 * width, color=BARS[place % len(BARS)], label=method)
        axes.bar_label(
            bars, [f"{100 * p:.0f}" if p >= 0.005 else "" for p in probabilities], padding=2, fontsize="xx-small"
        )
    axes.set_yticks(range(len(classes)), classes, fontsize="x-small")
    axes.get_yticklabels()[label].set_fontweight("bold")
    axes.set(ylim=(len(classes) - 0.45, -0.55), xlim=(0, 115), xticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
