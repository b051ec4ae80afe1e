"""Which pixels of an image the places of a convolutional network's maps depend on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Field:
    """The pixels that a place of a map depends on, along either axis: place k on `size` of them, the first of which is
    `start + k * stride`. Some may lie in the padding around the image. At the right and lower border some may be out of
    every window's reach, where strides leave a rest.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def after(self, layer: nn.Module) -> Field:
        """The field of a place behind one more layer of windows, a convolution or pooling, which are square."""
        side, step, padding, dilation = (
            value if isinstance(value, int) else value[0]
            for value in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
        )
        return Field(
            self.size + dilation * (side - 1) * self.stride, self.stride * step, self.start - padding * self.stride
        )

    def pixels(self, place: int, side: int) -> slice:
        """Those of a place that lie in an image of `side` pixels."""
        start = self.start + place * self.stride
        return slice(max(start, 0), min(start + self.size, side))

    def places(self, side: int, count: int) -> np.ndarray:
        """[side] of `count` places, the one whose field's centre is nearest to each pixel."""
        centre = self.start + (self.size - 1) / 2
        return np.rint((np.arange(side) - centre) / self.stride).clip(0, count - 1).astype(int)


def receptive_fields(network: nn.Module) -> dict[str, Field]:
    """The field of each convolution with a kernel above 1, by the convolution's name, from input to output.

    Such convolutions and the (not adaptive) poolings have to be one chain, in the order of `network.named_modules()`;
    in `MldrNet`, AlexNet, VGG, `ACNN` and `TCNN` they are. Windows are square.

    Raises:
        ValueError: there is no such convolution, or one takes another number of channels than the one before gives,
            as in ResNet-101.
    """
    fields: dict[str, Field] = {}
    field, channels = Field(), None
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
            if channels not in (None, layer.in_channels):
                raise ValueError(f"network: expected a chain, but {name} takes {layer.in_channels} of {channels} maps")
            fields[name] = field = field.after(layer)
            channels = layer.out_channels
        elif isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
            field = field.after(layer)
    if not fields:
        raise ValueError("network: expected convolutions with a kernel above 1, found none")
    return fields
