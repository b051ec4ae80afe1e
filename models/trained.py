"""A trained network as its checkpoint describes it: weights, classes, and how a picture becomes its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from fastmmd.models.checkpoints import damage_named
from fastmmd.models.data.images import match


@dataclass(frozen=True)
class Trained:
    """What a checkpoint of the command line holds.

    Args:
        network: in evaluation mode, on the CPU; images [n, *shape] to its layers by name, each [n, width], and logits
            [n, classes].
        transform: RGB picture to tensor [*shape], or to several crops [crops, *shape], see `networks.over_crops`.
        classes: names in label order.
        settings: the configuration of network and transform as plain values.
        data: that of the data, of which `source` and `target` say what it was trained on.
    """

    network: nn.Module
    transform: Callable[[Image.Image], Tensor]
    classes: tuple[str, ...]
    settings: dict[str, Any]
    data: dict[str, Any]

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of source and target, where their settings name one; relative to the working folder."""
        return tuple(Path(name).resolve() for domain in ("source", "target") for name in _roots(self.data.get(domain)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the network's input, without the batch: [channels, height, width]."""
        return tuple(self.crops("black").shape[1:])

    def crops(self, colour: str) -> Tensor:
        """What the transform makes of a picture of one colour: [crops, *shape], where one crop is the rule."""
        result = self.transform(Image.new("RGB", (64, 64), colour))
        return result if result.ndim == 4 else result[None]


def load_trained(checkpoint: Path) -> Trained:
    """Rebuilds network and transform from the settings in a checkpoint of `python -m fastmmd.models fit`.

    Neither the training images nor pretrained weights are needed. The exception is a run without `eval_transform`,
    whose data set makes tensors itself, such as the digits: its target data set is opened, and pictures are then
    turned into tensors like its items, of as many channels and pixels, with values in [0, 1].

    The settings name classes, which are imported and called: load only checkpoints that you trust.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no such checkpoint or is damaged, or its classes cannot be built or filled any more.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint: no file {str(checkpoint)!r}")
    try:
        with damage_named(checkpoint):
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model, data = stored["hyper_parameters"], stored["datamodule_hyper_parameters"]
        weights = stored["state_dict"]
        settings = {"network": model["network"], "eval_transform": data["eval_transform"]}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint: expected one of `python -m fastmmd.models fit`, got {str(checkpoint)!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    # The checkpoint's weights replace pretrained ones, which need not be at hand.
    network = _built("network", nn.Module, _without_pretrained(settings["network"]))
    own = {name.removeprefix("network."): value for name, value in weights.items() if name.startswith("network.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"checkpoint: {str(checkpoint)!r} does not fit its own settings: {error}") from error
    if settings["eval_transform"] is None:
        transform = _like_items(_built("target", Dataset, data["target"]))
    else:
        transform = _built("eval_transform", Callable[[Any], Any], settings["eval_transform"])
    match(transform, getattr(network, "preprocessing", None))  # as `DomainPair` does
    return Trained(network.eval(), transform, tuple(model["classes"]), settings, dict(data))


def _built(name: str, kind: Any, settings: Any) -> Any:
    """What the command line builds from `settings`, class path and arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(parser.parse_object({name: settings}))[name]


def _without_pretrained(settings: Any) -> Any:
    """`settings` with every backbone's argument `weights` set to a random start."""
    if not isinstance(settings, dict):
        return settings
    return {key: "none" if key == "weights" else _without_pretrained(value) for key, value in settings.items()}


def _roots(settings: Any) -> Iterator[str]:
    """The arguments of a data set, and of those that it is made of, that name its folder."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key in ("root", "folder") and isinstance(value, str):
                yield value
            else:
                yield from _roots(value)
    elif isinstance(settings, (list, tuple)):
        for one in settings:
            yield from _roots(one)


def _like_items(dataset: Dataset) -> v2.Compose:
    """A transform of pictures into tensors like the items of `dataset`."""
    image, _ = dataset[0]
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            "eval_transform: the run has none, so items of its target must be tensors [1 or 3, height, width]; "
            f"got {type(image).__name__} {list(getattr(image, 'shape', []))}"
        )
    channels, *size = image.shape
    steps = [v2.Grayscale() if channels == 1 else v2.RGB(), v2.Resize(size), v2.ToImage()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
