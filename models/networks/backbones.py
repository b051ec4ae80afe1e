"""Backbones: modules that map images to vectors of length `out_features`, an attribute they all have."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import ResNet, resnet

from fastmmd.models.networks.weights import imagenet_weights, load_weights


class ResNet50(ResNet):
    """torchvision's ResNet-50 without its classifier: images [n, 3, h, w] to pooled features [n, 2048].

    The parameters keep torchvision's names, so any ResNet-50 file of torchvision (or timm, whose names agree) fits.

    Args:
        weights: `"none"` for a random start, `"imagenet"` for torchvision's ImageNet weights (downloaded once),
            or the path of a local file (see `load_weights`). A classifier in the file is left out.

    Raises:
        FileNotFoundError, ValueError: the file is missing, unreadable, or not a ResNet-50.
        RuntimeError: `"imagenet"` could not be downloaded.
    """

    def __init__(self, weights: str = "none") -> None:
        super().__init__(resnet.Bottleneck, [3, 4, 6, 3])
        self.out_features = self.fc.in_features
        self.fc = nn.Identity()
        if weights == "imagenet":
            # V1 is what the published transfer results start from; V2 came later and starts higher.
            self.load_state_dict(imagenet_weights(resnet.ResNet50_Weights.IMAGENET1K_V1, without="fc."))
        elif weights != "none":
            load_weights(self, weights, without="fc.")


class DigitCNN(nn.Sequential):
    """Two convolutions for digits: images [n, 1, 16, 16] in [0, 1] to features [n, 512].

    The sizes are ours: the smallest network on which the methods separate clearly.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.out_features = 32 * 4 * 4

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)
