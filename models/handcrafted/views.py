"""One picture in the forms that the features ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_gradient_magnitude
from skimage.color import rgb2gray, rgb2hsv, rgb2lab
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from fastmmd.models.data.pictures import to_rgb

# Ours: the longer side in pixels; the least of the shorter side, at which db2 wavelets still have three levels; and
# the least difference of the largest and the smallest of R, G, B at which a pixel has a hue and a saturation.
SIDE, NARROWEST, CHROMATIC = 200, 24, 0.05


@dataclass(frozen=True)
class Views:
    """A picture in other colour spaces and in segments; each is computed when first asked for.

    Hues lie on a circle and greys have none, so a hue is a point in the complex plane: at its angle on the unit circle
    (red 1, yellow-green i, cyan -1), or 0 where the colour is too grey. Means, differences and wavelets of such points
    have no jump at red.

    A pixel without a hue has saturation 0 too. That is ours: HSV divides by the brightness, so noise in the dark would
    be as saturated as pure colours. (M&H take Hanbury's saturation for the same reason, as far as we know.)

    Args:
        rgb: [h, w, 3] in 0..1, sRGB.
    """

    rgb: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image) -> Views:
        """Scales the longer side to `SIDE` pixels, up or down, with the same aspect ratio.

        The shorter side becomes at least `NARROWEST`: pictures narrower than 1 : 8 are stretched. Modes are those of
        `to_rgb`.
        """
        scale = SIDE / max(picture.size)
        width, height = (max(NARROWEST, round(scale * side)) for side in picture.size)
        scaled = to_rgb(picture).resize((width, height), Image.Resampling.BILINEAR)
        return cls(np.asarray(scaled) / 255)

    @cached_property
    def hsv(self) -> np.ndarray:
        """[h, w, 3] in 0..1."""
        return rgb2hsv(self.rgb)

    @cached_property
    def hue(self) -> np.ndarray:
        """[h, w], complex; the length is 1 or, without a hue, 0."""
        return np.exp(2j * np.pi * self.hsv[..., 0]) * (np.ptp(self.rgb, axis=-1) >= CHROMATIC)

    @cached_property
    def saturation(self) -> np.ndarray:
        """[h, w] in 0..1: S of HSV or, without a hue, 0."""
        return self.hsv[..., 1] * (self.hue != 0)

    @property
    def brightness(self) -> np.ndarray:
        """[h, w] in 0..1: V of HSV."""
        return self.hsv[..., 2]

    @cached_property
    def lab(self) -> np.ndarray:
        """[h, w, 3]: CIELAB."""
        return rgb2lab(self.rgb)

    @property
    def lightness(self) -> np.ndarray:
        """[h, w] in 0..1: L* of CIELAB / 100, that is how light a colour looks; yellow is lighter than blue."""
        return self.lab[..., 0] / 100

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """Hue, saturation and brightness by name."""
        return {"hue": self.hue, "saturation": self.saturation, "brightness": self.brightness}

    @cached_property
    def grey(self) -> np.ndarray:
        """[h, w] in 0..1: luminance."""
        return rgb2gray(self.rgb)

    @cached_property
    def segments(self) -> np.ndarray:
        """[h, w] integers from 0: the segment of each pixel.

        M&H segment by waterfalls, that is watersheds whose basins are merged again. Ours are watersheds of the colour's
        gradient in CIELAB, smoothed over 3 pixels, in which basins less than 0.5 units a pixel deep are filled first.
        A segment ends where colours change, and soft edges are no segments of their own, as they are with
        Felzenszwalb & Huttenlocher's method.
        """
        slopes = [gaussian_gradient_magnitude(channel, 3) for channel in self.lab.transpose(2, 0, 1)]
        gradient = np.linalg.norm(slopes, axis=0)
        basins = watershed(reconstruction(gradient + 0.5, gradient, method="erosion"))
        # They count from 1, but a plain picture has no basin and is all 0.
        return basins - basins.min()
