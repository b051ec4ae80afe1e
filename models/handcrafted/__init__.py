"""Hand-crafted features of emotion in pictures: colour, contrasts of colour, texture, composition, skin.

They follow Machajdik & Hanbury, "Affective image classification using features inspired by psychology and art theory",
ACM Multimedia 2010 (M&H). What the paper leaves open, or takes from a model that is not public, is marked "ours".

| group         | values | what                                                                                 |
|---------------|--------|--------------------------------------------------------------------------------------|
| `colour`      | 26     | saturation, brightness, pleasure/arousal/dominance, hue, warm and cold, colour names |
| `contrasts`   | 15     | Itten's contrasts between the segments                                               |
| `texture`     | 27     | Tamura's features, wavelets, co-occurrence matrices                                  |
| `composition` | 14     | level of detail, low depth of field, dynamics of lines, rule of thirds               |
| `content`     | 1      | skin                                                                                 |

Left out: faces, which need a trained detector, and Wang's fuzzy histograms of colour.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmmd.models.handcrafted import colour, composition, content, contrasts, texture
from fastmmd.models.handcrafted.views import NARROWEST, Views

__all__ = ["NAMES", "describe"]

GROUPS = {
    "colour": colour.features,
    "contrasts": contrasts.features,
    "texture": texture.features,
    "composition": composition.features,
    "content": content.features,
}


def _values(views: Views) -> dict[str, float]:
    return {f"{group}.{name}": value for group, features in GROUPS.items() for name, value in features(views).items()}


# The names and their order do not depend on the picture.
NAMES: tuple[str, ...] = tuple(_values(Views(np.zeros((NARROWEST, NARROWEST, 3)))))


def describe(picture: Image.Image) -> Tensor:
    """All features of a picture: [len(NAMES)] float32, in the order of `NAMES`, finite for every picture.

    The picture is first scaled, see `Views.of`, so that neither its size nor its resolution matters much. The same
    picture has the same features in every process. They have different units; standardise them before a classifier
    that minds. It takes 0.07 s on one thread.

    Args:
        picture: of any mode and size.
    """
    return torch.tensor(list(_values(Views.of(picture)).values()), dtype=torch.float32)
