"""What every network here returns, and how an image that comes as several crops is classified."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from fastmmd.models.data.images import Preprocessing

Outputs = tuple[dict[str, Tensor], Tensor]


class Network(nn.Module):
    """A network that the transfer task trains.

    Its forward pass maps images [n, c, h, w] to

    * its layers by name, each [n, width], which a transfer term can see. None is computed from another, and the logits
      are computed from them;
    * the logits (no softmax) [n, classes].

    Parameters of a submodule `backbone`, if there is one, are trained at a rate of their own. The command line takes
    any class that derives from this one and has an argument `num_classes`.

    Attributes:
        preprocessing: how its images are prepared, which the transforms follow; `None` if they are not photographs.
    """

    preprocessing: Preprocessing | None = None

    def forward(self, images: Tensor) -> Outputs:
        raise NotImplementedError

    def combine(self, vectors: Sequence[Tensor]) -> Tensor:
        """All layers as one vector an image: [n, width] each to [n, sum of widths], side by side if nothing is said."""
        return torch.cat(list(vectors), dim=1)


class OnBackbone(Network):
    """A network that begins with a backbone, on request one that stays as it is.

    Args:
        backbone: maps images to [n, backbone.out_features].
        freeze_backbone: leave the backbone as it is, weights and batch statistics. In place of images the network
            then also takes the backbone's outputs, see `data.features`.
    """

    def __init__(self, backbone: nn.Module, freeze_backbone: bool = False) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not freeze_backbone)
        self.preprocessing = getattr(backbone, "preprocessing", None)
        self.freeze_backbone = freeze_backbone
        # Modules begin in training mode and Lightning's trainer leaves modes as they are: without this call the batch
        # norms of a frozen backbone would follow the batches.
        self.train()

    def train(self, mode: bool = True) -> OnBackbone:
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def backbone_outputs(self, images: Tensor) -> Tensor:
        """Images [n, c, h, w] to [n, backbone.out_features]; a frozen backbone's outputs stay as they are."""
        computed = self.freeze_backbone and images.shape[1:] == (self.backbone.out_features,)
        return images if computed else self.backbone(images)


class Layers(nn.Module):
    """A network's layers side by side: what its last fully-connected layers see, as features of fixed weights.

    For a network that is a backbone and a linear layer these are the backbone's outputs. For `MldrNet` they are the
    representations of all levels, low to high; with the mean of the branches' logits as fusion, a linear layer on them
    is exactly the mean of its branches' last layers.

    Args:
        network: whose `layers` are taken.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, c, h, w] to [n, width of all layers together], in the order in which the network names them."""
        layers, _ = self.network(images)
        return torch.cat(list(layers.values()), dim=1)


def over_crops(network: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
    """Layers and class probabilities of images; where an image comes as several crops, their means over its crops.

    The crops go through the network one after another, so that several take no more memory than one.

    Args:
        network: images to (layers, logits).
        images: a crop of each, [n, c, h, w] or whatever else the network takes; or several, [n, crops, c, h, w].

    Returns:
        layers: name -> [n, width].
        probabilities: [n, classes], in fp32 at least.
    """
    outputs = [network(crop) for crop in (images.unbind(dim=1) if images.ndim == 5 else (images,))]
    layers = {name: torch.stack([layers[name] for layers, _ in outputs]).mean(dim=0) for name in outputs[0][0]}
    precision = torch.promote_types(outputs[0][1].dtype, torch.float32)
    return layers, torch.stack([softmax(logits, dim=1, dtype=precision) for _, logits in outputs]).mean(dim=0)
