"""Coarse or fine, smooth or rough, with a direction or without: textures of grey, hue, saturation and brightness."""

from __future__ import annotations

import numpy as np
import pywt
from scipy.ndimage import correlate1d, maximum_filter1d, prewitt, uniform_filter
from skimage.feature import graycomatrix

from fastmmd.models.handcrafted.views import Views

# Tamura's windows, from coarse to fine, and the bins of a half turn. Levels of a co-occurrence matrix (ours).
WINDOWS, BINS, LEVELS = (32, 16, 8, 4, 2, 1), 16, 16

CHANNELS = ("hue", "saturation", "brightness")
NAMES = (
    *("coarseness", "contrast", "directionality"),
    *(f"wavelet_{channel}{level}" for channel in CHANNELS for level in ("_1", "_2", "_3", "")),
    *(
        f"glcm_{channel}_{name}"
        for channel in CHANNELS
        for name in ("contrast", "correlation", "energy", "homogeneity")
    ),
)

# Where the levels lie whose differences are measured: on a line, or, for hues, on a circle on which neighbours are
# about 1 apart; level 0 of the hues is grey, the centre.
LINE = np.arange(LEVELS)
CIRCLE = np.append(0, LEVELS / (2 * np.pi) * np.exp(2j * np.pi * np.arange(LEVELS) / LEVELS))


def features(views: Views) -> dict[str, float]:
    """27 values: those of `tamura`, `wavelets` and `cooccurrence`."""
    return {**tamura(views), **wavelets(views), **cooccurrence(views)}


def tamura(views: Views) -> dict[str, float]:
    """Coarseness, contrast and directionality of the grey picture.

    Tamura, Mori & Yamawaki, "Textural features corresponding to visual perception", IEEE Trans. SMC 8, 1978, used by
    M&H.

    | name           | range  | what                                                                              |
    |----------------|--------|-----------------------------------------------------------------------------------|
    | coarseness     | 1..32  | side of the window whose mean differs most from its neighbour's, mean over pixels |
    | contrast       | 0..0.5 | standard deviation over the fourth root of kurtosis                               |
    | directionality | 0..1   | 1 if all edges run in one direction, or in a few; 0 if evenly in all, or no edges |
    """
    return {
        "coarseness": _coarseness(views.grey),
        "contrast": _contrast(views.grey),
        "directionality": _directionality(views.grey),
    }


def wavelets(views: Views) -> dict[str, float]:
    """Energy of Daubechies wavelets on three levels of hue, saturation and brightness, and sums over the levels.

    12 values from 0, such as "wavelet_hue_1" (the finest level) and "wavelet_hue". Datta et al. (ECCV 2006), used by
    M&H, take the mean of the coefficients; the mean of their squares, which do not cancel, and db2 are ours.
    """
    values = {}
    for name, plane in views.channels.items():
        _, *levels = pywt.wavedec2(plane, "db2", level=3)
        energies = [np.mean(np.abs(details) ** 2) for details in reversed(levels)]
        values |= {f"wavelet_{name}_{k}": energy for k, energy in enumerate(energies, 1)}
        values[f"wavelet_{name}"] = sum(energies)
    return values


def cooccurrence(views: Views) -> dict[str, float]:
    """Contrast, correlation, energy and homogeneity of co-occurrence matrices (GLCM) of hue, saturation and brightness.

    Haralick, Shanmugam & Dinstein, "Textural features for image classification", IEEE Trans. SMC 3, 1973, used by M&H.
    12 values, such as "glcm_hue_contrast". The 16 levels are ours; the matrix is the mean of those of the four
    directions to the next pixel. Contrast is in squared levels, the others are in 0..1 (correlation: -1..1).

    `skimage.feature.graycoprops` has the same formulas for levels on a line, but hues lie on a circle.
    """
    hue = np.round(np.angle(views.hue) / (2 * np.pi) * LEVELS).astype(int) % LEVELS + 1
    levels = {
        "hue": (np.where(views.hue == 0, 0, hue), CIRCLE),
        "saturation": (_quantised(views.saturation), LINE),
        "brightness": (_quantised(views.brightness), LINE),
    }
    return {
        f"glcm_{channel}_{name}": value
        for channel, (plane, places) in levels.items()
        for name, value in _properties(plane, places).items()
    }


def _coarseness(grey: np.ndarray) -> float:
    differences = []
    for side in WINDOWS:
        means = uniform_filter(grey, side)
        neighbours = np.zeros(side + 1)
        neighbours[[0, -1]] = -1, 1
        both = [np.abs(correlate1d(means, neighbours, axis)) for axis in (0, 1)]
        differences.append(np.maximum(*both))
    # Means are equal to rounding. Of equal differences the first, coarsest counts, and where all are 0, such as amid a
    # plain field, there is no best window (ours).
    differences = np.round(differences, 9)
    best = np.take(WINDOWS, differences.argmax(axis=0))[differences.any(axis=0)]
    return best.mean() if len(best) else float(WINDOWS[0])


def _contrast(grey: np.ndarray) -> float:
    deviations = grey - grey.mean()
    fourth = np.mean(deviations**4)
    return np.mean(deviations**2) / fourth**0.25 if fourth > 1e-12 else 0.0


def _directionality(grey: np.ndarray) -> float:
    """How close the directions of edges are to the peaks of their histogram; 0 without edges.

    Which bins are peaks is ours: those of twice the even share that are the highest of five, or else the highest one. A
    bin belongs to the nearest peak. The scale is ours too: one peak in a flat histogram has 0.
    """
    across, down = prewitt(grey, 1), prewitt(grey, 0)
    edges = (np.abs(across) + np.abs(down)) / 2 >= 12 / 255
    if not edges.any():
        return 0.0
    bins = np.round(np.arctan2(down, across)[edges] / np.pi * BINS).astype(int) % BINS
    shares = np.bincount(bins, minlength=BINS) / len(bins)
    highest = shares == maximum_filter1d(shares, 5, mode="wrap")
    peaks = np.flatnonzero(highest & (shares >= 2 / BINS)) if shares.max() >= 2 / BINS else [shares.argmax()]
    squares = np.minimum(np.arange(BINS), BINS - np.arange(BINS)) ** 2
    nearest = squares[np.arange(BINS)[:, None] - peaks].min(axis=1)
    return max(0.0, 1 - len(peaks) * (shares @ nearest) / squares.mean())


def _quantised(plane: np.ndarray) -> np.ndarray:
    return (plane * LEVELS).astype(int).clip(max=LEVELS - 1)


def _properties(plane: np.ndarray, places: np.ndarray) -> dict[str, float]:
    """Of levels [h, w] that lie at `places`, real or complex."""
    directions = np.arange(4) * np.pi / 4
    matrices = graycomatrix(plane.astype(np.uint8), [1], directions, len(places), symmetric=True, normed=True)
    matrix = matrices.mean(axis=(2, 3))
    shares = matrix.sum(axis=1)
    centred = places - shares @ places
    variance = shares @ np.abs(centred) ** 2
    squares = np.abs(places[:, None] - places) ** 2
    return {
        "contrast": (matrix * squares).sum(),
        "correlation": (centred @ matrix @ centred.conj()).real / variance if variance > 1e-12 else 1.0,
        "energy": np.sqrt((matrix**2).sum()),
        "homogeneity": (matrix / (1 + squares)).sum(),
    }
