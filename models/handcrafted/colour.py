"""How colourful, bright and warm a picture is, and which colours it has."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.colors import XKCD_COLORS, to_rgb
from scipy.spatial import KDTree
from scipy.stats import wasserstein_distance_nd
from skimage.color import rgb2lab, rgb2luv

from fastmmd.models.handcrafted.views import Views

COLOURS = ("black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow")
NAMES = (
    *("saturation", "brightness", "pleasure", "arousal", "dominance"),
    *(f"{kind}_{part}" for kind in ("hue", "weighted_hue") for part in ("cos", "sin", "length")),
    *("coloured", "warm", "cold", "distance_to_uniform"),
    *COLOURS,
)

# Itten's poles of warm and cold, red-orange and blue-green, lie opposite each other on the circle of hues: at 15 and
# 195 degrees (the angle is ours).
WARMEST = np.exp(1j * np.radians(15))

# Cubes along each axis of RGB: for the histogram (Datta et al.) and for the names (van de Weijer et al.).
CUBES, NAMED_CUBES = 4, 32


def features(views: Views) -> dict[str, float]:
    """26 values.

    | name                              | range       | what                                                       |
    |-----------------------------------|-------------|------------------------------------------------------------|
    | saturation, brightness            | 0..1        | means of S and V of HSV, see `Views`                       |
    | pleasure, arousal, dominance      | -0.76..0.91 | weighted sums of the two: Valdez & Mehrabian, "Effects of  |
    |                                   |             | color on emotions", J. Exp. Psychol. General 123, 1994     |
    | hue_cos, hue_sin                  | -1..1       | the mean of the hues as points on a circle; its angle is   |
    |                                   |             | the mean hue                                               |
    | hue_length                        | 0..1        | its length: 1 for one hue, 0 for even spread or no hue     |
    | weighted_hue_...                  |             | the same, each pixel weighted with its saturation          |
    | coloured                          | 0..1        | share of pixels that have a hue (ours)                     |
    | warm, cold                        | 0..1        | shares of pixels with a hue nearer the one or other pole   |
    | distance_to_uniform               | 0..154      | small for a colourful picture, see `distance_to_uniform`   |
    | black, blue, ... yellow           | 0..1        | shares of the eleven basic colours, see `names`            |

    All but `coloured` are in M&H. That a mean hue is a point and not an angle, which would jump at red, is ours.
    """
    saturation, brightness = views.saturation.mean(), views.brightness.mean()
    coloured = np.abs(views.hue)
    warmth = (views.hue / WARMEST).real
    return {
        "saturation": saturation,
        "brightness": brightness,
        "pleasure": 0.69 * brightness + 0.22 * saturation,
        "arousal": -0.31 * brightness + 0.60 * saturation,
        "dominance": -0.76 * brightness + 0.32 * saturation,
        **_mean_hue("hue", views.hue, coloured),
        **_mean_hue("weighted_hue", views.hue, coloured * views.saturation),
        "coloured": coloured.mean(),
        "warm": (warmth > 0).mean(),
        "cold": (warmth < 0).mean(),
        "distance_to_uniform": distance_to_uniform(views.rgb),
        **names(views.rgb),
    }


def distance_to_uniform(rgb: np.ndarray) -> float:
    """Earth mover's distance from a picture's colours to all colours evenly, in units of CIELUV.

    Datta, Joshi, Li & Wang, "Studying aesthetics in photographic images using a computational approach", ECCV 2006:
    the histogram has 64 cubes of RGB, the distance of two cubes is that of their centres.

    Args:
        rgb: [h, w, 3] in 0..1.
    """
    sides = [np.linspace(0, 1, CUBES + 1)] * 3
    counts = np.histogramdd(rgb.reshape(-1, 3), sides)[0].ravel()
    centres = rgb2luv(_centres(CUBES))
    return wasserstein_distance_nd(centres[counts > 0], centres, counts[counts > 0])


def names(rgb: np.ndarray) -> dict[str, float]:
    """Shares of the pixels that one would call black, blue and so on; they sum to 1.

    M&H look the names up in a table that van de Weijer, Schmid & Verbeek learnt from the web (CVPR 2007), with one
    entry for each 8 x 8 x 8 colours. The table here is ours: the nearest colour of the XKCD survey in CIELAB whose name
    ends in one of the eleven words, such as "sky blue".

    Args:
        rgb: [h, w, 3] in 0..1.
    """
    red, green, blue = np.moveaxis((rgb * NAMED_CUBES).astype(int).clip(max=NAMED_CUBES - 1), -1, 0)
    counts = np.bincount(_table()[red, green, blue].ravel(), minlength=len(COLOURS))
    return dict(zip(COLOURS, counts / counts.sum(), strict=True))


def _mean_hue(name: str, hue: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    mean = (weights * hue).sum() / max(weights.sum(), 1e-9)
    return {f"{name}_cos": mean.real, f"{name}_sin": mean.imag, f"{name}_length": abs(mean)}


def _centres(cubes: int) -> np.ndarray:
    """RGB at the centres of cubes x cubes x cubes cubes: [cubes ** 3, 3]."""
    return (np.indices((cubes, cubes, cubes)).reshape(3, -1).T + 0.5) / cubes


@cache
def _table() -> np.ndarray:
    """Place in `COLOURS` of each cube of RGB: [32, 32, 32]."""
    places, prototypes = [], []
    for name, value in XKCD_COLORS.items():
        words = name.removeprefix("xkcd:").split()
        # The survey's pale and very light colours are nearly white, and would take its place.
        if words[-1] in COLOURS and not {"pale", "very"} & set(words):
            places.append(COLOURS.index(words[-1]))
            prototypes.append(to_rgb(value))
    nearest = KDTree(rgb2lab(np.array(prototypes))).query(rgb2lab(_centres(NAMED_CUBES)))[1]
    return np.array(places)[nearest].reshape(NAMED_CUBES, NAMED_CUBES, NAMED_CUBES)
