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

import hashlib
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fastmmd.models.handcrafted import colour, composition, content, contrasts, texture
from fastmmd.models.handcrafted.views import Views

__all__ = ["NAMES", "Descriptors", "describe"]

GROUPS = {
    "colour": colour,
    "contrasts": contrasts,
    "texture": texture,
    "composition": composition,
    "content": content,
}
NAMES: tuple[str, ...] = tuple(f"{group}.{name}" for group, module in GROUPS.items() for name in module.NAMES)

# What the features are computed by.
SOURCES, LIBRARIES = Path(__file__).parent, ("scikit-image", "PyWavelets", "SciPy")


def describe(picture: Image.Image) -> Tensor:
    """All features of a picture: [len(NAMES)] float32, in the order of `NAMES`, finite for every picture.

    The same picture has the same features in every process. They have different units; standardise them before a
    classifier that minds. The picture is scaled, see `Views.of`: of pictures larger than its `SIDE` the size matters
    little, numbers and lengths of lines vary somewhat; smaller ones are smoother when enlarged, with less fine texture.
    It takes 0.06 s on one thread.

    Args:
        picture: of any size, and of any mode; see `data.pictures` for what becomes of it.

    Raises:
        ValueError: pixels whose white is unknown.
    """
    views = Views.of(picture)
    values = {
        f"{group}.{name}": value for group, module in GROUPS.items() for name, value in module.features(views).items()
    }
    return torch.tensor([values[name] for name in NAMES], dtype=torch.float32)


class Descriptors(nn.Identity):
    """The backbone that goes with `describe` as the transform of `CachedFeatures`.

    Its representation, by which cached features are found, changes with the sources of this package and the versions
    of the libraries they stand on.
    """

    def extra_repr(self) -> str:
        digest = hashlib.sha256(" ".join(version(name) for name in LIBRARIES).encode())
        for path in sorted(SOURCES.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]
