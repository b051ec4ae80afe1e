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
from tqdm import tqdm

from fastmmd.models.data.sampling import View, item_names
from fastmmd.models.files import write_atomically

# Crops of a batch through the backbone, and items that the name of a file depends on.
BATCH, LOOKED_AT = 64, 16


class CachedFeatures(Dataset):
    """A domain seen through a backbone that is not trained: (features [backbone.out_features] float32, label).

    They are computed when first asked for, in evaluation mode, and written to `<digest>.safetensors` in `folder`, where
    every later run finds them. The digest is over the backbone and its weights, all item names, the domain's
    `fingerprint` if it has one (which changes with its files), and `LOOKED_AT` prepared images, evenly spaced.

    Nothing random can happen to the images any more. Where an image comes as several crops, its features are the means
    of the backbone's outputs over them; the crops go through it one after another.

    Args:
        domain: (image, label) with the attributes `classes` and `targets`, see `DomainPair`.
        backbone: maps what the transform makes, such as images [n, 3, h, w], to [n, out_features]. `nn.Identity` takes
            the features from the transform itself.
        transform: image -> tensor of one crop [c, h, w], of several [crops, c, h, w], or of another shape, such as a
            descriptor [out_features]; nothing random.
        folder: where the files are.
        device: where the backbone computes.
        workers: loader processes. The features do not depend on it.

    Attributes:
        features: [items, out_features] float32.
        classes, targets, names: those of the domain.

    Raises:
        RuntimeError: an item cannot be read; the error names it.
    """

    def __init__(
        self,
        domain: Dataset,
        backbone: nn.Module,
        transform: Callable[[Any], Any] | None,
        folder: str | Path,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ) -> None:
        self.classes = domain.classes
        self.targets = domain.targets
        self.names = item_names(domain)
        images = View(domain, range(len(domain)), transform)
        path = Path(folder) / f"{_digest(backbone, domain, images, self.names)}.safetensors"
        if not path.is_file():
            rank_zero_info(f"computing the features of {len(images)} images, once: {path}")
            content = save({"features": _outputs(backbone, images, torch.device(device), workers)})
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
def _outputs(backbone: nn.Module, images: Dataset, device: torch.device, workers: int) -> Tensor:
    """[items, out_features] float32 on the CPU; the backbone is left as it was, but on `device`."""
    training = backbone.training
    backbone.to(device).eval()
    shape = images[0][0].shape
    crops = shape[0] if len(shape) == 4 else 1
    # A generator of its own, so that a run that computes draws the same random numbers as one that reads.
    loader = DataLoader(images, max(1, BATCH // crops), num_workers=workers, generator=torch.Generator())
    features = []
    with tqdm(total=len(images), desc="computing features", unit="image") as bar:
        for batch, _ in loader:
            outputs = [backbone(crop.to(device)) for crop in (batch.unbind(dim=1) if batch.ndim == 5 else (batch,))]
            features.append(torch.stack(outputs).mean(dim=0).float().cpu())
            bar.update(len(batch))
    backbone.train(training)
    return torch.cat(features)
