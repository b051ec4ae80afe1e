"""How a picture is arranged: detail, sharpness of the centre, lines, and what is at its centre."""

from __future__ import annotations

import numpy as np
import pywt
from skimage.feature import canny
from skimage.morphology import skeletonize
from skimage.transform import probabilistic_hough_line

from fastmmd.models.handcrafted.views import Views

NAMES = (
    "detail",
    *("low_depth_hue", "low_depth_saturation", "low_depth_brightness"),
    *("static_lines", "slant_lines", "static_length", "slant_length", "slant_share", "slant_length_share"),
    *("thirds_hue_cos", "thirds_hue_sin", "thirds_saturation", "thirds_brightness"),
)

# Lines within so many degrees of the horizontal or vertical are static, the others slant: M&H's figure, as far as we
# know.
STATIC = 15

# The least contrast to which edges are compared: with less, steps between grey levels of 8 bits would be edges.
FAINTEST = 0.1


def features(views: Views) -> dict[str, float]:
    """14 values.

    | name                                 | range | what                                                              |
    |--------------------------------------|-------|-------------------------------------------------------------------|
    | detail                               | 1..   | number of segments: M&H's level of detail                         |
    | low_depth_hue, _saturation,          | 0..1  | see `low_depth_of_field`                                          |
    | _brightness                          |       |                                                                   |
    | static_lines, slant_lines            | 0..   | numbers of straight lines: M&H's dynamics, see `lines`            |
    | static_length, slant_length          | 0..   | their mean lengths, in longer sides of the picture                |
    | slant_share, slant_length_share      | 0..1  | of the number and of the length of all lines                      |
    | thirds_hue_cos, _hue_sin             | -1..1 | mean hue as a point on the circle, saturation and brightness in   |
    | thirds_saturation, thirds_brightness | 0..1  | the inner one of 3 x 3 fields (rule of thirds)                    |

    Low depth of field and the inner third are those of Datta et al. (ECCV 2006), used by M&H.
    """
    height, width = views.grey.shape
    third = (slice(height // 3, height - height // 3), slice(width // 3, width - width // 3))
    hue = views.hue[third].mean()
    return {
        "detail": float(views.segments.max() + 1),
        **{f"low_depth_{name}": low_depth_of_field(plane) for name, plane in views.channels.items()},
        **lines(views.grey),
        "thirds_hue_cos": hue.real,
        "thirds_hue_sin": hue.imag,
        "thirds_saturation": views.saturation[third].mean(),
        "thirds_brightness": views.brightness[third].mean(),
    }


def low_depth_of_field(plane: np.ndarray) -> float:
    """Share of the energy of the finest details that is in the middle four of 4 x 4 fields, in 0..1.

    Energy as the sum of the squared coefficients is ours.

    Args:
        plane: [h, w], real or complex. If it is plain, the result is 1/4, the middle's share of the area.
    """
    energy = (np.abs(pywt.dwt2(plane, "db2")[1]) ** 2).sum(axis=0)
    height, width = energy.shape
    middle = energy[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return (middle.sum() + 1e-9 / 4) / (energy.sum() + 1e-9)


def lines(grey: np.ndarray) -> dict[str, float]:
    """Numbers and lengths of static and slant lines.

    M&H find lines by a Hough transform. Canny's edges, thinned so that none counts twice, and the probabilistic
    transform, which knows where lines end, are ours, with their constants. How strong an edge must be goes with the
    contrast of the picture, its range without the darkest and the lightest hundredth, down to a contrast of `FAINTEST`.
    A ramp over the whole contrast is an edge too if it is at most 40 pixels long. A line has at least 20 pixels.
    Without lines all values are 0.

    Args:
        grey: [h, w] in 0..1.
    """
    contrast = np.ptp(np.percentile(grey, (1, 99)))
    edges = skeletonize(canny(grey / max(contrast, FAINTEST), sigma=2))
    found = probabilistic_hough_line(edges, threshold=10, line_length=20, line_gap=3, rng=0)
    across, down = np.abs(np.diff(np.reshape(found, (-1, 2, 2)), axis=1)[:, 0].T)
    tilt = np.degrees(np.arctan2(down, across))
    slant = np.minimum(tilt, 90 - tilt) > STATIC
    lengths = np.hypot(across, down) / max(grey.shape)
    return {
        "static_lines": float((~slant).sum()),
        "slant_lines": float(slant.sum()),
        "static_length": lengths[~slant].sum() / max((~slant).sum(), 1),
        "slant_length": lengths[slant].sum() / max(slant.sum(), 1),
        "slant_share": slant.sum() / max(len(slant), 1),
        "slant_length_share": lengths[slant].sum() / max(lengths.sum(), 1e-9),
    }
