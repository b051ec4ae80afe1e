"""The transforms of transfer learning on photographs: PIL image to normalised tensor [3, crop, crop]."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

# ImageNet's statistics, which pretrained networks expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class TrainTransform(v2.Compose):
    """Resize, random resized crop and random flip: the training transform of JAN's released code.

    Args:
        resize: both sides after the first step.
        crop: both sides of the result.
    """

    def __init__(self, resize: int = 256, crop: int = 224) -> None:
        steps = [v2.Resize((resize, resize)), v2.RandomResizedCrop(crop), v2.RandomHorizontalFlip()]
        super().__init__([v2.RGB(), *steps, *_to_tensor()])


class EvalTransform(v2.Compose):
    """Resize and centre crop; arguments as in `TrainTransform`."""

    def __init__(self, resize: int = 256, crop: int = 224) -> None:
        super().__init__([v2.RGB(), v2.Resize((resize, resize)), v2.CenterCrop(crop), *_to_tensor()])


def _to_tensor() -> list[v2.Transform]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
