"""The transforms of photographs: PIL image to normalised tensor [3, crop, crop], or five of them.

| transform        | resized to            | crops                                     |
|------------------|-----------------------|-------------------------------------------|
| `TrainTransform` | a square, see below   | at random, resized; flipped at random     |
| `EvalTransform`  | a square, see below   | the centre                                |
| `FiveCropTrain`  | a shorter side        | a corner or the centre; flipped at random |
| `FiveCropEval`   | a shorter side        | all five, or the centre alone             |

The first two are those of JAN's released code, the others those of Rao, Xu & Xu. JAN's resize both sides, whatever the
picture's shape; most pretrained networks were trained on pictures of their own shape. `crop_mode` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

CropMode = Literal["squash", "center", "border"]


@dataclass(frozen=True)
class Preprocessing:
    """What a pretrained network expects of its images; the defaults are those of torchvision's ImageNet networks.

    Args:
        mean, std: of the three channels, for values in [0, 1].
        interpolation: "nearest", "bilinear", "bicubic", ...: torchvision's names.
        resize: side before the crop; `crop_mode` says which.
        crop: both sides of the result.
        crop_mode: how the network's own evaluation fits a picture, by timm's names: "center" resizes the shorter side
            and cuts off what is too long, "squash" resizes both sides, "border" resizes the longer side and pads the
            shorter one with the mean colour. Transforms follow it only if they are asked to (`EvalTransform`).
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    resize: int = 256
    crop: int = 224
    crop_mode: CropMode = "center"


class _Matched:
    """A transform that takes from a network what it was not given.

    Args:
        resize, crop: sides; if not given, what the network expects (`match`).
    """

    def __init__(self, resize: int | None = None, crop: int | None = None) -> None:
        self.sides = {"resize": resize, "crop": crop}
        self.match(Preprocessing())

    def match(self, expected: Preprocessing) -> None:
        """Takes mean, std, interpolation, and the sides that were not given, from a network."""
        sides = {name: getattr(expected, name) if side is None else side for name, side in self.sides.items()}
        self.steps = v2.Compose(
            [
                v2.RGB(),
                *self.crops(replace(expected, **sides)),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(expected.mean, expected.std),
            ]
        )

    def crops(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        """The steps from a picture to one of `expected.crop` pixels a side, or to several."""
        raise NotImplementedError

    def __call__(self, image: Image.Image) -> Tensor:
        return self.steps(image)


class EvalTransform(_Matched):
    """Resize and centre crop.

    Args:
        resize: side after the first step; if not given, what the network expects (`match`).
        crop: both sides of the result; likewise.
        crop_mode: what the first step does: "squash" resizes both sides (JAN's protocol), "center" the shorter side,
            "border" the longer side, see `Preprocessing`; "network" does what the network's own evaluation does.
            With "network" and no sides given, the result is that of the network's own evaluation transform.

    Raises:
        ValueError: there is no such mode.
    """

    def __init__(
        self,
        resize: int | None = None,
        crop: int | None = None,
        crop_mode: CropMode | Literal["network"] = "squash",
    ) -> None:
        if crop_mode not in (*get_args(CropMode), "network"):
            raise ValueError(f"crop_mode: expected {', '.join(get_args(CropMode))} or network, got {crop_mode!r}")
        self.crop_mode = crop_mode
        super().__init__(resize, crop)

    def crops(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        return [*self.fitted(expected), v2.CenterCrop(expected.crop)]

    def fitted(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        """The steps to a picture that is large enough for the crop."""
        interpolation = v2.InterpolationMode(expected.interpolation)
        mode = expected.crop_mode if self.crop_mode == "network" else self.crop_mode
        if mode == "squash":
            return [v2.Resize((expected.resize, expected.resize), interpolation)]
        if mode == "center":
            return [v2.Resize(expected.resize, interpolation)]
        fill = tuple(round(255 * value) for value in expected.mean)
        return [_Letterbox(expected.resize, expected.crop, interpolation, fill)]


class TrainTransform(EvalTransform):
    """Resize, random resized crop and random flip: the training transform of JAN's released code.

    Arguments and errors as in `EvalTransform`.
    """

    def crops(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        return [
            *self.fitted(expected),
            v2.RandomResizedCrop(expected.crop, interpolation=v2.InterpolationMode(expected.interpolation)),
            v2.RandomHorizontalFlip(),
        ]


class FiveCropTrain(_Matched):
    """Resize the shorter side; one of the crops of the four corners and the centre at random, and a random flip.

    Rao, Xu & Xu train on crops of 375 pixels from the centre and the corners. How large the images are before that they
    do not state, nor a flip; `MldrNet` asks for 400 pixels.

    Args:
        resize: the shorter side after the first step; if not given, what the network expects (`match`).
        crop: both sides of the result, at most `resize`; likewise.
    """

    def crops(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        resize = v2.Resize(expected.resize, v2.InterpolationMode(expected.interpolation))
        return [resize, v2.FiveCrop(expected.crop), _one_of, v2.RandomHorizontalFlip()]


class FiveCropEval(_Matched):
    """Resize the shorter side; all five crops, [5, 3, crop, crop], over which predictions are averaged.

    They are those of the upper left, upper right, lower left and lower right corner, and the centre.

    Args:
        resize, crop: as in `FiveCropTrain`.
        centre_only: take the centre alone, [3, crop, crop].
    """

    def __init__(self, resize: int | None = None, crop: int | None = None, centre_only: bool = False) -> None:
        self.centre_only = centre_only
        super().__init__(resize, crop)

    def crops(self, expected: Preprocessing) -> list[Callable[..., Any]]:
        resize = v2.Resize(expected.resize, v2.InterpolationMode(expected.interpolation))
        return [resize, (v2.CenterCrop if self.centre_only else v2.FiveCrop)(expected.crop)]

    def __call__(self, image: Image.Image) -> Tensor:
        result = super().__call__(image)
        return result if self.centre_only else torch.stack(result)


def match(transform: Any, expected: Preprocessing | None) -> None:
    """Tells a transform what a network expects, if the one has a method `match` and the other expects something."""
    if expected is not None and hasattr(transform, "match"):
        transform.match(expected)


class _Letterbox(nn.Module):
    """Resizes the longer side to `resize` and pads both to at least `crop`, evenly, with the colour `fill`."""

    def __init__(self, resize: int, crop: int, interpolation: v2.InterpolationMode, fill: tuple[int, ...]) -> None:
        super().__init__()
        self.resize, self.crop, self.interpolation, self.fill = resize, crop, interpolation, fill

    def forward(self, image: Image.Image) -> Image.Image:
        factor = max(image.size) / self.resize
        height, width = (max(1, round(side / factor)) for side in (image.height, image.width))
        image = v2.functional.resize(image, [height, width], self.interpolation)
        across, down = (max(0, self.crop - side) for side in (width, height))
        margins = [across // 2, down // 2, across - across // 2, down - down // 2]
        return v2.functional.pad(image, margins, fill=list(self.fill))

    def extra_repr(self) -> str:
        return f"resize={self.resize}, crop={self.crop}, interpolation={self.interpolation}, fill={self.fill}"


def _one_of(crops: Sequence[Image.Image]) -> Image.Image:
    return crops[int(torch.randint(len(crops), ()))]
