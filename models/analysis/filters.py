"""What excites a convolutional network: of each layer its strongest filter, as figure 5 of Rao, Xu & Xu.

The paper shows the filters. The patches of images that excite them most are ours: the weights of a filter behind the
first layer say little to the eye.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fastmmd.models.analysis.figures import COLOURS, save
from fastmmd.models.analysis.receptive_fields import Field, receptive_fields
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.data.sampling import View, item_names

BATCH = 32


@dataclass(frozen=True)
class Excited:
    """An image, and the place in it that excites a filter most.

    Args:
        name: of the image.
        picture: the prepared image before its normalisation, [h, w, 3] in [0, 1].
        responses: the filter's map behind the ReLU, [rows, columns].
        rows, columns: the place's receptive field in the picture, cut at its border.
    """

    name: str
    picture: np.ndarray
    responses: np.ndarray
    rows: slice
    columns: slice

    @property
    def patch(self) -> np.ndarray:
        """The picture's part in the receptive field, [height, width, 3]."""
        return self.picture[self.rows, self.columns]


@dataclass(frozen=True)
class Strongest:
    """A layer's strongest filter.

    Args:
        layer: the convolution's name in the network.
        filters: how many the layer has.
        chosen: the filter's index among them.
        weights: of the filter, [inputs, side, side].
        field: of the layer's places.
        images: those that excite the filter most, the strongest first.
    """

    layer: str
    filters: int
    chosen: int
    weights: np.ndarray
    field: Field
    images: tuple[Excited, ...]


def strongest(
    network: nn.Module, domain: Dataset, transform: Callable[[Any], Tensor] | None, count: int = 5
) -> list[Strongest]:
    """Finds each layer's strongest filter and, for it, the images that excite it most.

    An image's activation of a filter is the largest value on the filter's map, behind the ReLU that directly follows
    the convolution and before any pooling. The strongest filter is that whose mean activation over all images is
    largest. Nothing is normalised: a filter with large weights counts as strong. Among equals the first comes first.

    Args:
        network: a chain, see `receptive_fields`; what it is, training or not, it is again afterwards. Its
            `preprocessing`, if it has any, says how to undo the images' normalisation.
        domain: items are (picture, label).
        transform: picture to one tensor [3, h, w], of one size for all.
        count: images of a filter at most, with one place each. One that does not excite it is not taken.

    Returns:
        One a layer, from input to output.

    Raises:
        ValueError: as `receptive_fields`; the transform makes several crops of an image.
    """
    fields = receptive_fields(network)
    images, names = View(domain, range(len(domain)), transform), item_names(domain)
    if (shape := images[0][0].shape)[:-3]:
        raise ValueError(f"transform: expected one crop of an image, got {list(shape)}")
    expected = getattr(network, "preprocessing", None) or Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    device = next(network.parameters()).device
    found = []
    with _maps(network, fields) as maps:
        activations: dict[str, list[Tensor]] = {name: [] for name in fields}
        loader = DataLoader(images, batch_size=BATCH, generator=torch.Generator())
        for batch, _ in tqdm(loader, desc="activations", unit="batch"):
            network(batch.to(device))
            for name in fields:
                activations[name].append(maps[name].amax(dim=(2, 3)).cpu())
        for name, field in fields.items():
            values = torch.cat(activations[name]).numpy()
            chosen = int(values.mean(axis=0).argmax())
            best = np.argsort(-values[:, chosen], kind="stable")[:count]
            excited = []
            for item in best[values[best, chosen] > 0]:
                image = images[item][0]
                network(image[None].to(device))
                responses = maps[name][0, chosen].cpu().numpy()
                place = np.unravel_index(responses.argmax(), responses.shape)
                inside = (field.pixels(*pair) for pair in zip(place, image.shape[1:], strict=True))
                excited.append(Excited(names[item], _picture(image, expected), responses, *inside))
            weights = network.get_submodule(name).weight.detach().cpu().numpy()
            found.append(Strongest(name, len(weights), chosen, weights[chosen], field, tuple(excited)))
    return found


def draw(found: Sequence[Strongest], path: Path, title: str | None = None) -> None:
    """Draws a row for each layer: the filter, where the patch lies that excites it most, and such patches.

    The filter is shown by its weights if these are colours, that is in the first layer: grey is 0. In the others it is
    shown by what it responds to in the first patch's picture, which is dark elsewhere. Above each patch stands its
    activation; patches of a row have one scale.

    Args:
        found: of `strongest`.
        path: of the PNG.
        title: of the figure.
    """
    cells = 2 + max(len(layer.images) for layer in found)
    size = (max(6.5, 1.25 * cells), 1.7 * len(found) + 0.4 * (title is not None))
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    for number, (part, layer) in enumerate(zip(parts, found, strict=True), 1):
        side = f"{layer.field.size} x {layer.field.size} pixels"
        head = f"Convolution {number} ({layer.layer}): filter {layer.chosen} of {layer.filters}, sees {side}"
        part.suptitle(head, x=0.01, ha="left", fontsize="medium")
        own, around, *others = part.subplots(1, cells)
        for axes in (own, around, *others):
            axes.axis("off")
        if len(layer.weights) == 3:
            _show(own, 0.5 + 0.5 * layer.weights.transpose(1, 2, 0) / (np.abs(layer.weights).max() or 1), "weights")
        elif layer.images:
            _show(own, _lit(layer.images[0], layer.field), "response")
        else:
            own.text(0, 0.5, "No image excites this layer.", va="center")
        if layer.images:
            _show(around, layer.images[0].picture, "around patch 1")
            _frame(around, layer.images[0])
        scale = max((max(image.patch.shape[:2]) for image in layer.images), default=1)
        for place, (axes, image) in enumerate(zip(others, layer.images, strict=False), 1):
            height, width = image.patch.shape[:2]
            _show(axes, image.patch, f"patch {place}: {image.responses.max():.3g}")
            axes.set_xlim((width - 1 - scale) / 2, (width - 1 + scale) / 2)
            axes.set_ylim((height - 1 + scale) / 2, (height - 1 - scale) / 2)
    figure.suptitle(title)
    save(figure, path)


@contextmanager
def _maps(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """A dictionary that holds each named convolution's rectified output [n, filters, h, w] after a forward pass."""
    maps: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        maps[name] = output.relu()  # a copy: the network's own ReLU may overwrite its input

    hooks = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield maps
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


def _picture(image: Tensor, expected: Preprocessing) -> np.ndarray:
    """A normalised image [3, h, w] as it was before, [h, w, 3] in [0, 1]."""
    mean, std = np.array(expected.mean), np.array(expected.std)
    return (image.permute(1, 2, 0).numpy() * std + mean).clip(0, 1)


def _lit(image: Excited, field: Field) -> np.ndarray:
    """The picture, each pixel as bright as the response of the place nearest to it: [h, w, 3]."""
    sides = zip(image.picture.shape, image.responses.shape, strict=False)
    rows, columns = (field.places(side, count) for side, count in sides)
    light = image.responses[np.ix_(rows, columns)] / image.responses.max()
    return image.picture * (0.15 + 0.85 * light[..., None])


def _show(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title, fontsize="small")


def _frame(axes: Axes, image: Excited) -> None:
    """A frame around the patch, light and dark, so that it stands out from any picture."""
    corner = (image.columns.start - 0.5, image.rows.start - 0.5)
    height, width = image.patch.shape[:2]
    for colour, thickness in (("white", 2.6), (COLOURS[6], 1.2)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=thickness, clip_on=False)
        )
