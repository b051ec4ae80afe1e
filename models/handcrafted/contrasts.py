"""Itten's seven contrasts of colour, between the segments of a picture."""

from __future__ import annotations

import numpy as np

from fastmmd.models.handcrafted.colour import WARMEST
from fastmmd.models.handcrafted.views import Views

LIGHTNESSES = ("very_dark", "dark", "middle", "light", "very_light")
SATURATIONS = ("weak", "moderate", "strong")
NAMES = (
    *("light_dark", "saturation", "hue", "complementary", "warm_cold", "extension", "simultaneous"),
    *LIGHTNESSES,
    *SATURATIONS,
)


def features(views: Views) -> dict[str, float]:
    """15 values, of the mean hue, saturation and lightness of every segment, weighted with its area.

    Itten, "The art of color", 1961, describes the contrasts in words, and M&H compute them between segments. The
    formulas are ours. Light and dark are L* of CIELAB, for in HSV blue and yellow are as bright as white.

    | name                    | range  | what                                                                          |
    |-------------------------|--------|-------------------------------------------------------------------------------|
    | light_dark              | 0..0.5 | standard deviation of lightness                                               |
    | saturation              | 0..0.5 | standard deviation of saturation                                              |
    | hue                     | 0..1   | how much is coloured, less the length of the sum of hues: 0 for one hue or    |
    |                         |        | none, 1 if all is coloured and the hues cancel                                |
    | complementary           | 0..1   | 1 for two opposite hues, half of the picture each                             |
    | warm_cold               | 0..1   | standard deviation of warmth, the cosine to the warmest hue                   |
    | extension               | 0..    | standard deviation of the areas over their mean: much beside little           |
    | simultaneous            | 0..1   | 1 if every border is between a pure colour and a grey as light                |
    | very_dark .. very_light | 0..1   | shares of five classes of lightness, with centres at 0, 0.25, .. 1; what      |
    |                         |        | lies between two belongs to both in part                                      |
    | weak, moderate, strong  | 0..1   | shares of three classes of saturation, with centres at 0, 0.5, 1, likewise    |
    """
    planes = (views.hue, views.saturation, views.lightness)
    hue, saturation, lightness = (_segment_means(plane, views.segments) for plane in planes)
    areas = np.bincount(views.segments.ravel()) / views.segments.size
    # Cosine of the angle between two segments' hues, less where a segment is grey in part: [segments, segments].
    alike = np.outer(hue, hue.conj()).real
    return {
        "light_dark": _deviation(lightness, areas),
        "saturation": _deviation(saturation, areas),
        "hue": areas @ np.abs(hue) - abs(areas @ hue),
        "complementary": 2 * areas @ (-alike).clip(min=0) @ areas,
        "warm_cold": _deviation((hue / WARMEST).real, areas),
        "extension": areas.std() / areas.mean(),
        "simultaneous": _simultaneous(saturation, lightness, views.segments),
        **_classes(LIGHTNESSES, lightness, areas),
        **_classes(SATURATIONS, saturation, areas),
    }


def _segment_means(plane: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """[segments], complex if the plane is; `np.bincount` takes real weights alone."""
    if np.iscomplexobj(plane):
        return _segment_means(plane.real, segments) + 1j * _segment_means(plane.imag, segments)
    return np.bincount(segments.ravel(), plane.ravel()) / np.bincount(segments.ravel())


def _deviation(values: np.ndarray, areas: np.ndarray) -> float:
    return np.sqrt((areas * (values - areas @ values) ** 2).sum())


def _simultaneous(saturation: np.ndarray, lightness: np.ndarray, segments: np.ndarray) -> float:
    """Mean over all neighbouring pixels of two segments; 0 if there is one segment."""
    across = segments[:, :-1].ravel(), segments[:, 1:].ravel()
    down = segments[:-1].ravel(), segments[1:].ravel()
    one, other = np.concatenate([across, down], axis=1)
    one, other = one[one != other], other[one != other]
    if not len(one):
        return 0.0
    strong, weak = np.maximum(saturation[one], saturation[other]), np.minimum(saturation[one], saturation[other])
    return (strong * (1 - weak) * (1 - np.abs(lightness[one] - lightness[other]))).mean()


def _classes(names: tuple[str, ...], values: np.ndarray, areas: np.ndarray) -> dict[str, float]:
    """Shares of classes whose centres are evenly spaced over 0..1; they sum to 1."""
    places = values * (len(names) - 1)
    return {name: areas @ (1 - np.abs(places - k)).clip(min=0) for k, name in enumerate(names)}
