"""The networks that Rao, Xu & Xu compare MldrNet with.

Each is a backbone and a linear layer (`Classifier`). A-CNN and T-CNN stand here; AlexNet, VGG-19 and ResNet-101 are
torchvision's:

| network    | in code                                               | parameters, 8 classes |
|------------|-------------------------------------------------------|-----------------------|
| AlexNet    | `Classifier(Torchvision("alexnet"), 8)`               | 57.04 M               |
| A-CNN      | `Classifier(ACNN(), 8)`                               | 9.67 M                |
| T-CNN      | `Classifier(TCNN(), 8)`                               | 18.52 M               |
| VGG-19     | `Classifier(Torchvision("vgg19", "imagenet"), 8)`     | 139.60 M              |
| ResNet-101 | `Classifier(Torchvision("resnet101", "imagenet"), 8)` | 42.52 M               |

torchvision's AlexNet is that of Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014):
64, 192, 384, 256 and 256 channels, where the original of 2012 has 96, 256, 384, 384 and 256.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastmmd.models.data.images import Preprocessing
from fastmmd.models.networks.mldrnet import check_images
from fastmmd.models.networks.network import OnBackbone, Outputs


class Classifier(OnBackbone):
    """A backbone and a linear layer, with PyTorch's default initial values.

    With a frozen backbone this is a linear probe. Its layer "features" is then fixed, and a transfer term changes
    something through the softmax alone.

    Args:
        backbone: maps images to [n, backbone.out_features].
        num_classes: number of logits.
        freeze_backbone: leave the backbone as it is, see `OnBackbone`.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, freeze_backbone: bool = False) -> None:
        super().__init__(backbone, freeze_backbone)
        self.head = nn.Linear(backbone.out_features, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images [n, c, h, w] to the layer "features" [n, backbone.out_features] and logits [n, num_classes]."""
        features = self.backbone_outputs(images)
        return {"features": features}, self.head(features)


class ACNN(nn.Module):
    """The network for aesthetics: images [n, 3, h, w] to features [n, widths[-1]].

    Rao, Xu & Xu state four convolutional layers, max-pooling after the first two, and fully-connected layers of 1000,
    256 and 8 values, the last of which is the classifier's. The rest follows from our knowledge of the network that
    these agree with, RAPID's (Lu et al. 2014): 224x224 images; 64 filters a layer, of 11x11 with stride 2, 5x5, 3x3 and
    3x3; pooling 3x3 with stride 2; local response normalisation. The pooling to 12x12 before the first fully-connected
    layer is ours: with the whole 24x24 map the network has 37.3 M parameters, not 9.67 M. Dropout follows each
    fully-connected layer.

    Args:
        channels: outputs of each convolutional layer.
        map_side: sides of the map before the fully-connected layers.
        widths: of the two fully-connected layers.
        dropout: probability of dropping an output of theirs.
    """

    def __init__(
        self, channels: int = 64, map_side: int = 12, widths: tuple[int, int] = (1000, 256), dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 11, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.LocalResponseNorm(5),
            nn.Conv2d(channels, channels, 5),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.LocalResponseNorm(5),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(map_side)
        self.layers = _fully_connected(channels * map_side**2, widths, dropout)
        self.out_features = widths[-1]
        self.preprocessing = Preprocessing(resize=256, crop=224)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another shape, or with a side below 39 pixels."""
        check_images(images, least=39)
        return self.layers(self.pool(self.features(images)))


class TCNN(nn.Module):
    """The network for texture: images [n, 3, h, w] to features [n, widths[-1]].

    Rao, Xu & Xu state AlexNet's first two convolutional layers, an energy layer, and fully-connected layers of 4096,
    4096 and 8 values, the last of which is the classifier's. Ours are what they leave out of AlexNet: local response
    normalisation is omitted, convolutions are not grouped, and dropout follows each fully-connected layer.

    The energy layer is stated as average pooling with a kernel of 27, the side of the whole map for AlexNet's 227x227
    images. For larger images it would read a corner; so here it averages over the map whatever its size.

    Args:
        channels: outputs of the convolutional layers.
        widths: of the two fully-connected layers.
        dropout: probability of dropping an output of theirs.
    """

    def __init__(
        self,
        channels: tuple[int, int] = (96, 256),
        widths: tuple[int, int] = (4096, 4096),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels[0], 11, stride=4),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(channels[0], channels[1], 5, padding=2),
            nn.ReLU(),
        )
        self.energy = nn.AdaptiveAvgPool2d(1)
        self.layers = _fully_connected(channels[1], widths, dropout)
        self.out_features = widths[-1]
        self.preprocessing = Preprocessing(resize=256, crop=227)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another shape, or with a side below 19 pixels."""
        check_images(images, least=19)
        return self.layers(self.energy(self.features(images)))


def _fully_connected(inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers)
