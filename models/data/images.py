"""The transforms of photographs: PIL image to normalised tensor [3, crop, crop], or five of them.

| transform        | resized to      | crops                                     |
|------------------|-----------------|-------------------------------------------|
| `TrainTransform` | a square        | at random, resized; flipped at random     |
| `EvalTransform`  | a square        | the centre                                |
| `FiveCropTrain`  | a shorter side  | a corner or the centre; flipped at random |
| `FiveCropEval`   | a shorter side  | all five, or the centre alone             |

The first two are those of JAN's released code, the others those of Rao, Xu & Xu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
        resize: both sides before the crop, or the shorter side.
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
                *self.crops(resize, crop, interpolation),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(expected.mean, expected.std),
            ]
        )

    def crops(self, resize: int, side: int, interpolation: v2.InterpolationMode) -> list[Callable[..., Any]]:
        """The steps from a picture to one of `side` x `side` pixels, or to five."""
        return [v2.Resize((resize, resize), interpolation), v2.CenterCrop(side)]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.steps(image)


class TrainTransform(EvalTransform):
    """Resize, random resized crop and random flip: the training transform of JAN's released code.

    Arguments as in `EvalTransform`.
    """

    def crops(self, resize: int, side: int, interpolation: v2.InterpolationMode) -> list[Callable[..., Any]]:
        return [
            v2.Resize((resize, resize), interpolation),
            v2.RandomResizedCrop(side, interpolation=interpolation),
            v2.RandomHorizontalFlip(),
        ]


class FiveCropTrain(EvalTransform):
    """Resize the shorter side; one of the crops of the four corners and the centre at random, and a random flip.

    Rao, Xu & Xu train on crops of 375 pixels from the centre and the corners. How large the images are before that they
    do not state, nor a flip; `MldrNet` asks for 400 pixels.

    Args:
        resize: the shorter side after the first step; if not given, what the network expects (`match`).
        crop: both sides of the result, at most `resize`; likewise.
    """

    def crops(self, resize: int, side: int, interpolation: v2.InterpolationMode) -> list[Callable[..., Any]]:
        return [v2.Resize(resize, interpolation), v2.FiveCrop(side), _one_of, v2.RandomHorizontalFlip()]


class FiveCropEval(EvalTransform):
    """Resize the shorter side; all five crops, [5, 3, crop, crop], over which predictions are averaged.

    They are those of the upper left, upper right, lower left and lower right corner, and the centre.

    Args:
        resize, crop: as in `FiveCropTrain`.
        centre_only: take the centre alone, [3, crop, crop].
    """

    def __init__(self, resize: int | None = None, crop: int | None = None, centre_only: bool = False) -> None:
        self.centre_only = centre_only
        super().__init__(resize, crop)

    def crops(self, resize: int, side: int, interpolation: v2.InterpolationMode) -> list[Callable[..., Any]]:
        return [v2.Resize(resize, interpolation), v2.CenterCrop(side) if self.centre_only else v2.FiveCrop(side)]

    def __call__(self, image: Image.Image) -> Tensor:
        result = super().__call__(image)
        return result if self.centre_only else torch.stack(result)


def match(transform: Any, expected: Preprocessing | None) -> None:
    """Tells a transform what a network expects, if the one has a method `match` and the other expects something."""
    if expected is not None and hasattr(transform, "match"):
        transform.match(expected)


def _one_of(crops: Sequence[Image.Image]) -> Image.Image:
    return crops[int(torch.randint(len(crops), ()))]
