"""The transforms of transfer learning on photographs: PIL image to normalised tensor [3, crop, crop]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Preprocessing:
    """What a pretrained network expects of its images; the defaults are those of torchvision's ImageNet networks.

    Args:
        mean, std: of the three channels, for values in [0, 1].
        interpolation: "nearest", "bilinear" or "bicubic".
        resize: both sides before the crop.
        crop: both sides of the result.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    resize: int = 256
    crop: int = 224


class EvalTransform:
    """Resize and centre crop.

    Args:
        resize: both sides after the first step; if not given, what the network expects (`match`).
        crop: both sides of the result; likewise.
    """

    def __init__(self, resize: int | None = None, crop: int | None = None) -> None:
        self.sides = {"resize": resize, "crop": crop}
        self.match(Preprocessing())

    def match(self, expected: Preprocessing) -> None:
        """Takes mean, std, interpolation, and the sides that were not given, from a network."""
        interpolation = v2.InterpolationMode(expected.interpolation)
        resize, crop = (getattr(expected, name) if side is None else side for name, side in self.sides.items())
        self.steps = v2.Compose(
            [
                v2.RGB(),
                v2.Resize((resize, resize), interpolation),
                *self.crops(crop, interpolation),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(expected.mean, expected.std),
            ]
        )

    def crops(self, side: int, interpolation: v2.InterpolationMode) -> list[v2.Transform]:
        return [v2.CenterCrop(side)]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.steps(image)


class TrainTransform(EvalTransform):
    """Resize, random resized crop and random flip: the training transform of JAN's released code.

    Arguments as in `EvalTransform`.
    """

    def crops(self, side: int, interpolation: v2.InterpolationMode) -> list[v2.Transform]:
        return [v2.RandomResizedCrop(side, interpolation=interpolation), v2.RandomHorizontalFlip()]
