"""MldrNet, the multi-level network for image emotions of Rao, Xu & Xu, and its variant with a bidirectional GRU.

Rao, Xu & Xu, "Learning Multi-level Deep Representations for Image Emotion Classification" (arXiv 1611.07145; version 1
describes another model). Zhu et al., "Dependency Exploitation: A Unified CNN-RNN Approach for Visual Emotion
Recognition", IJCAI 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fastmmd.models.data.images import Preprocessing
from fastmmd.models.networks.network import Network, Outputs

Fusion = Literal["mean", "max", "min", "concat", "gru"]
Levels = Literal["all", "last"]

# The extrema share their gradient among equal values, of which there are many behind a ReLU: no level comes first.
REDUCTIONS = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}


class MldrNet(Network):
    """A chain of convolutional layers with a branch after each; the branches' outputs are fused into one prediction.

    Rao, Xu & Xu state the filter sizes (11x11, then 5x5), max-pooling after a convolutional layer, the branches' parts
    (1x1 convolution with 128 filters and ReLU, then two fully-connected layers), the fusions mean, max, min and concat,
    and that depths 2 to 6 were compared, of which 4 with the mean was chosen. Their equations 3 and 4 apply the softmax
    to the fused vector itself; so what mean, max and min fuse are values of classes.

    All other sizes stand in a figure only, and no code of theirs is public: **the widths are ours**, arguments below.
    The chain is AlexNet's in its first sizes (11x11 filters with stride 4, max-pooling 3x3 with stride 2, 96, 256, 384
    and 256 channels), padded so that images of every size go through all six layers. A branch is 1x1 convolution, ReLU,
    adaptive average pooling, dropout, fully-connected layer, ReLU, which gives the level's representation, then
    dropout and the fully-connected layer of the classes. Without its pooling a branch after the first layer would need
    145 million weights. Initial values are PyTorch's defaults, as in the paper. The mean trains all branches
    with every image, maximum and minimum only those that a value is taken from.

    `fusion="gru"` is the MldrNet with Bi-GRU that the paper compares with, a method of Zhu et al.: the representations,
    from low to high, are a sequence for a bidirectional GRU. Its width, and the mean over its steps, are ours. For
    their second loss see `ContrastiveLoss`.

    The paper's images are 375x375, cropped from the centre and the corners (`data.FiveCropTrain`); the 400 pixels that
    the shorter side has before that, and ImageNet's mean and deviation, are ours.

    Args:
        num_classes: number of logits.
        depth: convolutional layers, and so branches.
        fusion: of the branches.
        fuse: what is fused: each branch's own class logits, or the branches' representations, which one linear layer
            then maps to logits. If not given: logits for mean, max and min, as the paper, representations for concat
            and gru, for which there is no other choice.
        channels: outputs of the convolutional layers; the first `depth` are used.
        stride: of the first convolution.
        pool, pool_stride: side and stride of the max-pooling windows; the side is odd.
        branch_channels: outputs of a branch's 1x1 convolution.
        branch_map: sides of a branch's map after its pooling.
        width: of a representation.
        gru_width: of the GRU, in each direction.
        dropout: probability of dropping an input of a fully-connected layer.
        levels: where the branches are: after all convolutional layers, or after the last alone. With one branch there
            is nothing to fuse: this is the plain network that MldrNet is to be measured by (the comparison is ours).

    Raises:
        ValueError: `depth`, `fusion`, `fuse` or `levels` is none of the possible values, or `fusion` and `fuse` do not
            go together.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int = 4,
        fusion: Fusion = "mean",
        fuse: Literal["logits", "hidden"] | None = None,
        channels: Sequence[int] = (96, 256, 384, 256, 256, 256),
        stride: int = 4,
        pool: int = 3,
        pool_stride: int = 2,
        branch_channels: int = 128,
        branch_map: int = 6,
        width: int = 512,
        gru_width: int = 256,
        dropout: float = 0.5,
        levels: Levels = "all",
    ) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(resize=400, crop=375)
        if not 1 <= depth <= len(channels):
            raise ValueError(f"depth: expected 1 to {len(channels)}, the number of channels, got {depth}")
        if levels not in ("all", "last"):
            raise ValueError(f"levels: expected 'all' or 'last', got {levels!r}")
        # The first convolutional layer with a branch, from 0.
        self.first = depth - 1 if levels == "last" else 0
        count = depth - self.first
        widths = {"mean": width, "max": width, "min": width, "concat": count * width, "gru": 2 * gru_width}
        if fusion not in widths:
            raise ValueError(f"fusion: expected one of {', '.join(widths)}, got {fusion!r}")
        possible = ("logits", "hidden") if fusion in REDUCTIONS else ("hidden",)
        fuse = fuse or possible[0]
        if fuse not in possible:
            raise ValueError(f"fuse: expected {' or '.join(possible)} for fusion {fusion!r}, got {fuse!r}")
        self.fusion = fusion
        self.fuses_logits = fuse == "logits"

        self.chain = nn.ModuleList()
        self.branches = nn.ModuleList()
        inputs = 3
        for level, outputs in enumerate(channels[:depth]):
            side, step = (5, 1) if level else (11, stride)
            self.chain.append(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, side, step, padding=side // 2),
                    nn.ReLU(),
                    nn.MaxPool2d(pool, pool_stride, padding=pool // 2),
                )
            )
            inputs = outputs
        for outputs in channels[self.first : depth]:
            self.branches.append(
                nn.Sequential(
                    nn.Conv2d(outputs, branch_channels, 1),
                    nn.ReLU(),
                    nn.AdaptiveAvgPool2d(branch_map),
                    nn.Flatten(),
                    nn.Dropout(dropout),
                    nn.Linear(branch_channels * branch_map**2, width),
                    nn.ReLU(),
                )
            )
        if fusion == "gru":
            self.gru = nn.GRU(width, gru_width, bidirectional=True)
        heads = [width] * count if self.fuses_logits else [widths[fusion]]
        self.heads = nn.ModuleList(nn.Sequential(nn.Dropout(dropout), nn.Linear(n, num_classes)) for n in heads)

    def forward(self, images: Tensor) -> Outputs:
        """Images [n, 3, h, w] to the levels' representations, low to high, and logits.

        Returns:
            layers: "level1", "level2", ... to that of `depth`, each [n, width], none negative.
            logits: no softmax, [n, num_classes].

        Raises:
            ValueError: the images have another shape, or a side below 11 pixels, that of the first filters.
        """
        check_images(images, least=11)
        maps = images
        layers = {}
        for place, layer in enumerate(self.chain):
            maps = layer(maps)
            if place >= self.first:
                layers[f"level{place + 1}"] = self.branches[place - self.first](maps)
        return layers, self.classify(list(layers.values()))

    def classify(self, levels: Sequence[Tensor]) -> Tensor:
        """Representations [n, width] of all levels, low to high, to logits [n, num_classes]."""
        if self.fuses_logits:
            return self.combine([head(level) for head, level in zip(self.heads, levels, strict=True)])
        return self.heads[0](self.combine(levels))

    def combine(self, vectors: Sequence[Tensor]) -> Tensor:
        """The fusion itself: vectors [n, d], one a level, to [n, d], [n, d * depth] or [n, 2 * gru_width].

        Of the representations that `forward` returns it makes one vector an image, as `ContrastiveLoss` takes them.
        """
        if self.fusion == "concat":
            return super().combine(vectors)
        stacked = torch.stack(list(vectors))
        if self.fusion == "gru":
            steps, _ = self.gru(stacked)
            return steps.mean(dim=0)
        return REDUCTIONS[self.fusion](stacked, dim=0)


class ContrastiveLoss(nn.Module):
    """Draws images of one class together and pushes others apart: the second of Zhu et al.'s two losses.

    The mean over all pairs of the batch of `d ** 2` for two images of one class and `max(0, margin - d) ** 2` for two
    others, with d the Euclidean distance of their vectors, times `weight`. To be added to the cross-entropy.

    Zhu et al. state two losses, a weight of 0.5 and a margin of 1. The rest is our reading: the form, which is that of
    Hadsell, Chopra & LeCun (CVPR 2006) without their factor 1/2; all pairs, and their mean; vectors as they are, not
    normalised; and which vectors, for which we take those of `MldrNet.combine`.

    Args:
        weight: factor on the loss.
        margin: distance from which images of two classes are left alone.
    """

    def __init__(self, weight: float = 0.5, margin: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.margin = margin

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Vectors [n, d] and labels [n] to the loss (0-d); 0 for fewer than two images.

        Raises:
            ValueError: the shapes are others.
        """
        if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
            expected = "expected vectors [n, d] and labels [n]"
            raise ValueError(f"{expected}, got {list(vectors.shape)} and {list(labels.shape)}")
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        # Not by matrix products, which lose small distances. Between equal vectors the gradient is 0, not NaN.
        between = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
        distances, alike = between[first, second], labels[first] == labels[second]
        losses = torch.where(alike, distances, (self.margin - distances).clamp(min=0)).square()
        return self.weight * losses.sum() / max(len(losses), 1)


def check_images(images: Tensor, least: int) -> None:
    """Raises ValueError unless `images` are [n, 3, h, w] with sides of at least `least`."""
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < least:
        raise ValueError(f"images: expected [n, 3, h, w] with h and w from {least}, got {list(images.shape)}")
