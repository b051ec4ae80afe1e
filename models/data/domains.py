"""Two labelled domains as one LightningDataModule: the source to learn from, the target to transfer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

from fastmmd.models.data.sampling import SeededView, StreamLoader, StreamSampler, View


class DomainPair(LightningDataModule):
    """Source and target batches side by side for training; held-out parts of both for validation; the target's test.

    A domain is a map-style data set of (image, label) with the two attributes of torchvision's `ImageFolder`:
    `classes`, the class names in label order, and `targets`, every item's label. `ImageFolder` itself is one.

    A training batch is `{"source": (images, labels), "target": (images, labels)}`; the two sizes may differ. Whether
    the target's training labels are used is the model's choice. The splits are stratified.

    Args:
        source, target: the domains. Their classes must be equal, in the same order.
        source_batch, target_batch: items of each domain in a training batch. 36 + 36 is JAN's.
        steps_per_epoch: training batches in an epoch; both domains are sampled endlessly.
        source_validation, target_validation: parts of the domains that are kept for validation.
        target_test: part of the target that is kept for the test.
        train_transform: image -> tensor for training; may be random (torch's generator), see `SeededView`.
        eval_transform: image -> tensor for validation, test and prediction.
        seed: seed of the batches and of random transforms.
        split_seed: seed of the splits, so that runs with different `seed` are tested on the same items.
        workers: loader processes of each domain. Batches do not depend on it.

    Raises:
        ValueError: the domains' classes differ, or a class has too few items to be split.
    """

    def __init__(
        self,
        source: Dataset,
        target: Dataset,
        source_batch: int = 36,
        target_batch: int = 36,
        steps_per_epoch: int = 500,
        source_validation: float = 0.1,
        target_validation: float = 0.1,
        target_test: float = 0.5,
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
        split_seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if list(source.classes) != list(target.classes):
            raise ValueError(
                "source and target must have the same classes in the same order; "
                f"source has {list(source.classes)}, target has {list(target.classes)}"
            )
        self.classes = list(target.classes)
        self.num_classes = len(self.classes)
        self.domains = {"source": source, "target": target}
        self.batch_sizes = {"source": source_batch, "target": target_batch}
        self.steps_per_epoch = steps_per_epoch
        self.transforms = {"train": train_transform, "eval": eval_transform}
        self.seed = seed
        self.workers = workers

        rest, self.test_items = self._split("target", range(len(target)), target_test, split_seed)
        self.items = {
            "source": self._split("source", range(len(source)), source_validation, split_seed),
            "target": self._split("target", rest, target_validation / (1 - target_test), split_seed),
        }

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise NotImplementedError(
                f"{self.trainer.world_size} processes are not supported yet: every rank would see the same batches; "
                "set trainer.devices and trainer.num_nodes to 1"
            )

    def train_dataloader(self) -> CombinedLoader:
        return CombinedLoader({name: self._train_loader(name) for name in self.domains}, "max_size_cycle")

    def val_dataloader(self) -> list[DataLoader]:
        """The validation parts of source and target, in this order."""
        return [self._eval_loader(name, held_out) for name, (_, held_out) in self.items.items()]

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("target", self.test_items)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def _train_loader(self, name: str) -> DataLoader:
        domain, (items, _) = self.domains[name], self.items[name]
        sampler = StreamSampler(
            len(items),
            self.batch_sizes[name],
            self.steps_per_epoch,
            seed=(self.seed, list(self.domains).index(name)),
            first=lambda: self.trainer.fit_loop.epoch_loop.total_batch_idx + 1,
        )
        view = SeededView(domain, items, self.transforms["train"])
        return StreamLoader(view, batch_sampler=sampler, **self._loading())

    def _eval_loader(self, name: str, items: list[int]) -> DataLoader:
        view = View(self.domains[name], items, self.transforms["eval"])
        return DataLoader(view, batch_size=4 * self.batch_sizes[name], **self._loading())

    def _loading(self) -> dict[str, Any]:
        # A loader without a generator of its own draws from the global one whenever an iteration begins, and a resumed
        # run begins one more than an uninterrupted run: dropout would differ.
        return {
            "generator": torch.Generator(),
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _split(self, name: str, items: Sequence[int], part: float, seed: int) -> tuple[list[int], list[int]]:
        """Stratified split of a domain's `items` into (the rest, `part` of them), each in ascending order."""
        if part == 0:
            return list(items), []
        domain = self.domains[name]
        labels = [int(domain.targets[item]) for item in items]
        try:
            rest, held_out = train_test_split(items, test_size=part, stratify=labels, random_state=seed)
        except ValueError as error:
            label, count = min(Counter(labels).items(), key=lambda pair: pair[1])
            raise ValueError(
                f"{name}: cannot hold out {part:.0%} of {len(labels)} items from every class; the smallest is "
                f"{self.classes[label]!r} with {count}: {error}"
            ) from error
        return sorted(rest), sorted(held_out)
