"""The outputs of a frozen backbone as a data set: computed once, kept in a file, read by every later run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastmmd.models.data.sampling import View, item_names
from fastmmd.models.files import write_atomically

# Items of a batch through the backbone, and those that the name of a file depends on.
BATCH, LOOKED_AT = 64, 16


class CachedFeatures(Dataset):
    """A domain seen through a backbone that is not trained: (features [backbone.out_features] float32, label).

    They are computed when first asked for, in evaluation mode, and written to `<digest>.safetensors` in `folder`, where
    every later run finds them. The digest is over the backbone and its weights, all item names, the domain's
    `fingerprint` if it has one (which changes with its files), and `LOOKED_AT` prepared images, evenly spaced.

    Nothing random can happen to the images any more.

    Args:
        domain: (image, label) with the attributes `classes` and `targets`, see `DomainPair`.
        backbone: maps images [n, 3, h, w] to [n, out_features].
        transform: image -> tensor of one crop, nothing random.
        folder: where the files are.
        device: where the backbone computes.

    Attributes:
        features: [items, out_features] float32.
        classes, targets, names: those of the domain.

    Raises:
        RuntimeError: an item cannot be read; the error names it.
        ValueError: the transform makes several crops of an image.
    """

    def __init__(
        self,
        domain: Dataset,
        backbone: nn.Module,
        transform: Callable[[Any], Any] | None,
        folder: str | Path,
        device: str | torch.device = "cpu",
    ) -> None:
        self.classes = domain.classes
        self.targets = domain.targets
        self.names = item_names(domain)
        images = View(domain, range(len(domain)), transform)
        if (shape := images[0][0].shape)[:-3]:
            raise ValueError(f"transform: expected one crop of an image, got {list(shape)}")
        path = Path(folder) / f"{_digest(backbone, domain, images, self.names)}.safetensors"
        if not path.is_file():
            rank_zero_info(f"computing the features of {len(images)} images, once: {path}")
            content = save({"features": _outputs(backbone, images, torch.device(device))})
            with write_atomically(path, "wb") as file:
                file.write(content)
        self.features = load_file(path)["features"]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.features[item], self.targets[item]


def _digest(backbone: nn.Module, domain: Dataset, images: Dataset, names: list[str]) -> str:
    weights = backbone.state_dict()
    shapes = [f"{name} {tuple(value.shape)}" for name, value in weights.items()]
    described = [repr(backbone), *shapes, getattr(domain, "fingerprint", ""), *names]
    digest = hashlib.sha256("\n".join(described).encode())
    count = min(LOOKED_AT, len(images))
    looked_at = [images[k * len(images) // count][0] for k in range(count)]
    for value in (*weights.values(), *looked_at):
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _outputs(backbone: nn.Module, images: Dataset, device: torch.device) -> Tensor:
    """[items, out_features] float32 on the CPU; the backbone is left as it was, but on `device`."""
    training = backbone.training
    backbone.to(device).eval()
    # A generator of its own, so that a run that computes draws the same random numbers as one that reads.
    loader = DataLoader(images, batch_size=BATCH, generator=torch.Generator())
    features = torch.cat([backbone(batch.to(device)).float().cpu() for batch, _ in loader])
    backbone.train(training)
    return features
