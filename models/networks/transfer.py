"""The transfer network: backbone, bottleneck, head."""

from __future__ import annotations

from torch import Tensor, nn

from fastmmd.models.networks.network import OnBackbone, Outputs


class TransferNet(OnBackbone):
    """Backbone, one fully-connected layer (the bottleneck), and a linear head.

    He & Ding 2020, section 3, is a pretrained ResNet-50 with one fully-connected layer behind its convolutions and a
    softmax layer; it gives no width. The defaults (256, ReLU, dropout 0.5, initial values) are those of JAN's released
    code, which that paper extends; `batch_norm` is the variant of tllib's JAN.

    Args:
        backbone: maps images to [n, backbone.out_features].
        num_classes: width of the head.
        width: width of the bottleneck.
        dropout: probability of dropping a bottleneck feature.
        batch_norm: normalise the bottleneck before its ReLU.
        freeze_backbone: leave the backbone as it is, see `OnBackbone`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        width: int = 256,
        dropout: float = 0.5,
        batch_norm: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(backbone, freeze_backbone)
        self.bottleneck = nn.Sequential(
            nn.Linear(backbone.out_features, width),
            nn.BatchNorm1d(width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(width, num_classes)
        nn.init.normal_(self.bottleneck[0].weight, std=0.005)
        nn.init.constant_(self.bottleneck[0].bias, 0.1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Outputs:
        """Images [n, c, h, w] to the layer "features", the bottleneck's [n, width], and logits [n, num_classes].

        With a frozen backbone its outputs [n, backbone.out_features] may stand for the images.
        """
        features = self.bottleneck(self.backbone_outputs(images))
        return {"features": features}, self.head(features)
