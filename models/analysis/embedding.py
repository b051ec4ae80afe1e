"""t-SNE of both domains' features, before and after training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fastmmd.models.analysis.distance import proxy_a_distance
from fastmmd.models.analysis.figures import save

# Okabe & Ito's palette without its yellow, which is lost on white, then Paul Tol's "muted" for nine and ten classes.
EIGHT = ("#000000", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999999")
TEN = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#999999")

# Of the first and the second domain: marker and its inside.
MARKERS = (("o", "none"), ("^", "#333333"))

# Domain -> (features [n, d], labels [n]).
Domains = Mapping[str, tuple[np.ndarray, np.ndarray]]


def tsne(features: np.ndarray, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Features [n, d] to points [n, 2]: principal components (50 at most), then scikit-learn's t-SNE.

    One seed gives the same points every time on one machine. Distances between clusters mean little.

    Args:
        features: at least 8 rows of finite values.
        perplexity: cut to (n - 1) / 3, above which t-SNE has no neighbourhoods.
        seed: of t-SNE.

    Raises:
        ValueError: the shape is another, there are too few rows, or values are not finite.
    """
    if features.ndim != 2 or len(features) < 8:
        raise ValueError(f"features: expected [n, d] with n >= 8, got {features.shape}")
    components = min(50, *features.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(features)
    perplexity = min(perplexity, (len(features) - 1) / 3)
    # One thread: sums then have one order.
    return TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)


def draw_domains(
    stages: Mapping[str, Domains],
    classes: Sequence[str],
    path: Path,
    title: str | None = None,
    limit: int = 500,
    seed: int = 0,
) -> None:
    """Draws each stage, such as "before training" and "after training", as one t-SNE of both domains together.

    Colours are classes (told apart by the colour-blind up to ten of them), markers domains; above each panel stands
    the domains' proxy A-distance, measured on all features, not on the picture.

    Args:
        stages: panel title -> domain -> (features [n, d], labels [n]); two domains, the same in every stage.
        classes: class names in label order.
        path: of the PNG.
        title: of the figure.
        limit: points of a domain that are drawn, taken at random.
        seed: of that choice and of t-SNE.

    Raises:
        ValueError: not two domains, or as `tsne` and `proxy_a_distance`.
    """
    figure = Figure(figsize=(4.6 * len(stages) + 1.6, 4.9), layout="constrained")
    colours = _colours(len(classes))
    for axes, (name, domains) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        if len(domains) != 2:
            raise ValueError(f"stages: expected two domains in {name!r}, got {list(domains)}")
        distance = proxy_a_distance(*(features for features, _ in domains.values()), seed=seed)
        _scatter(axes, [_sample(*domain, limit, seed) for domain in domains.values()], colours, seed)
        axes.set_title(f"{name}\nproxy A-distance {distance:.2f} of 2", fontsize="medium")
    hollow, filled = ({"ls": "", "color": "#333333", "marker": marker, "mfc": face} for marker, face in MARKERS)
    first, second = next(iter(stages.values()))
    keys = [Line2D([], [], label=first, **hollow), Line2D([], [], label=second, **filled)]
    keys += [Line2D([], [], ls="", marker="s", color=c, label=n) for n, c in zip(classes, colours, strict=True)]
    figure.legend(handles=keys, loc="outside right center", frameon=False, ncols=math.ceil(len(keys) / 22))
    figure.suptitle(title)
    save(figure, path)


def _colours(count: int) -> Sequence[str]:
    if count <= len(EIGHT):
        return EIGHT[:count]
    return (
        TEN[:count] if count <= len(TEN) else [to_hex(c) for c in matplotlib.colormaps["turbo"].resampled(count).colors]
    )


def _sample(features: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.random.default_rng(seed).permutation(len(features))[:limit]
    return features[chosen], labels[chosen]


def _scatter(axes: Axes, domains: list[tuple[np.ndarray, np.ndarray]], colours: Sequence[str], seed: int) -> None:
    points = tsne(np.concatenate([features for features, _ in domains]), seed=seed)
    places = np.split(points, [len(domains[0][0])])
    for (_, labels), place, (marker, face) in zip(domains, places, MARKERS, strict=True):
        colour = np.array(colours)[labels]
        filled = {"facecolors": "none", "edgecolors": colour} if face == "none" else {"c": colour, "linewidths": 0}
        axes.scatter(*place.T, s=16, marker=marker, **filled)
    axes.set_xticks([])
    axes.set_yticks([])
