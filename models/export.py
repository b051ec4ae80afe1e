"""`python -m fastmmd.models.export --checkpoint CKPT --output DIR --format safetensors`: a network for use elsewhere.

Beside the network stands `model.json`: its classes, what its input must be, its configuration, and the versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torchvision
from jsonargparse import auto_cli

import fastmmd
from fastmmd.models.files import write_atomically
from fastmmd.models.trained import Trained, load_trained

Format = Literal["safetensors", "torch_export", "onnx"]
INPUT = "images"
DYNAMIC = ({0: torch.export.Dim("n")},)


def export(checkpoint: Path, output: Path, format: Format = "safetensors") -> Path:
    """Writes a trained network, and `model.json` beside it.

    * safetensors: `model.safetensors`, the weights [names as in the network's state dict].
    * torch_export: `model.pt2`, for `torch.export.load`.
    * onnx: `model.onnx`.

    The last two contain the computation, for any number of images: "images" [n, channels, height, width] float32 to
    the network's layers by name, such as "features", each [n, width], and "logits" [n, classes], of which a softmax
    makes probabilities. Where evaluation was over several crops of an image, each is an input of its own, and the
    probabilities are to be averaged over them.

    Args:
        checkpoint: of `python -m fastmmd.models fit`.
        output: folder.
        format: of the network.

    Returns:
        The network's file.

    Raises:
        ModuleNotFoundError: onnx needs a package that is not installed.
        FileNotFoundError, ValueError: as `load_trained`.
    """
    if format == "onnx":
        absent = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
        if absent:
            raise ModuleNotFoundError(
                f"format onnx takes the packages {', '.join(absent)}: pip install onnx onnxscript"
            )
    trained = load_trained(checkpoint)
    suffix, written = WRITERS[format]
    path = output / f"model.{suffix}"
    content = written(trained)
    with write_atomically(path, "wb") as file:
        file.write(content)
    with write_atomically(output / "model.json") as file:
        json.dump(description(trained, path.name), file, indent=2)
    return path


def description(trained: Trained, name: str) -> dict[str, Any]:
    """The sidecar of the network file `name`, as plain values."""
    mean, std = normalisation(trained)
    return {
        "file": name,
        "classes": list(trained.classes),
        "input": {
            "name": INPUT,
            "shape": ["n", *trained.shape],
            "crops": len(trained.crops("black")),
            "mean": mean,
            "std": std,
            "note": "RGB or grey in [0, 1], less mean, divided by std",
            "transform": trained.settings["eval_transform"],
            "steps": str(getattr(trained.transform, "steps", trained.transform)),
        },
        "outputs": _outputs(trained),
        "network": trained.settings["network"],
        "versions": {
            "fastmmd": fastmmd.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }


def normalisation(trained: Trained) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, as the transform subtracts and divides them.

    They are read off a black and a white picture, which become -mean / std and (1 - mean) / std.

    Raises:
        ValueError: the transform makes no difference between black and white.
    """
    black, white = (trained.crops(colour)[0, :, 0, 0] for colour in ("black", "white"))
    if (black == white).any():
        raise ValueError(
            "eval_transform: expected one that normalises each channel, got one that is the same for black and white"
        )
    std = 1 / (white - black)
    return tuple([round(value, 6) for value in values.tolist()] for values in (0 - black * std, std))


def _example(trained: Trained) -> torch.Tensor:
    return torch.zeros(2, *trained.shape)  # two, for a batch of one would be taken for a constant


def _outputs(trained: Trained) -> list[str]:
    """Names of the network's outputs, in their order."""
    with torch.inference_mode():
        layers, _ = trained.network(_example(trained))
    return [*layers, "logits"]


def _safetensors(trained: Trained) -> bytes:
    # Networks are trained with channels last, a layout that the format does not have.
    state = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    return safetensors.torch.save(state)


def _torch_export(trained: Trained) -> bytes:
    program = torch.export.export(trained.network, (_example(trained),), dynamic_shapes=DYNAMIC)
    file = BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _onnx(trained: Trained) -> bytes:
    program = torch.onnx.export(
        trained.network,
        (_example(trained),),
        dynamo=True,
        dynamic_shapes=DYNAMIC,
        input_names=[INPUT],
        output_names=_outputs(trained),
        verbose=False,
    )
    return program.model_proto.SerializeToString()


WRITERS: dict[str, tuple[str, Callable[[Trained], bytes]]] = {
    "safetensors": ("safetensors", _safetensors),
    "torch_export": ("pt2", _torch_export),
    "onnx": ("onnx", _onnx),
}


if __name__ == "__main__":
    auto_cli(export, as_positional=False, prog="python -m fastmmd.models.export")
