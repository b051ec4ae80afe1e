"""What a picture shows, as far as colours tell: skin."""

from __future__ import annotations

from skimage.color import rgb2ycbcr

from fastmmd.models.handcrafted.views import Views

NAMES = ("skin",)


def features(views: Views) -> dict[str, float]:
    """One value: "skin", the share of skin-coloured pixels, in 0..1.

    M&H count skin too. The rule is that of Chai & Ngan, "Face segmentation using skin-color map in videophone
    applications", IEEE Trans. CSVT 9, 1999: Cb in 77..127 and Cr in 133..173.
    """
    _, blue, red = rgb2ycbcr(views.rgb).transpose(2, 0, 1)
    return {"skin": ((blue >= 77) & (blue <= 127) & (red >= 133) & (red <= 173)).mean()}
