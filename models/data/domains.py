"""Two labelled domains as one LightningDataModule: the source to learn from, the target to transfer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.folds import Fold, Split, floor_split
from fastmmd.models.data.images import match
from fastmmd.models.data.readers.scans import checked, duplicates
from fastmmd.models.data.sampling import SeededView, StreamLoader, StreamSampler, View, item_names


class DomainPair(LightningDataModule):
    """Source and target batches side by side for training; held-out parts of both for validation; the target's test.

    A domain is a map-style data set of (image, label) with the two attributes of torchvision's `ImageFolder`:
    `classes`, the class names in label order, and `targets`, every item's label. `ImageFolder` itself is one.

    A training batch is `{"source": (images, labels), "target": (images, labels)}`; the two sizes may differ. Whether
    the target's training labels are used is the model's choice; a domain that the model does not see in training is
    not loaded. All splits are stratified.

    To train and test on one data set, give it as source and as target, with `exclude_held_out`: the source is then what
    the split leaves for training, and a model that sees the source alone learns from these items.

    With several processes each has batches of its own, of the sizes given; what is evaluated is shared out among them.

    Args:
        source, target: the domains. Their classes must be equal, in the same order.
        source_batch, target_batch: items of each domain in a training batch. 36 + 36 is JAN's.
        steps_per_epoch: training batches in an epoch; both domains are sampled endlessly.
        source_validation: part of the source that is kept for validation.
        target_validation, target_test: likewise parts of the target, drawn at random; not used if there is a `fold`.
        fold: which fold of the target's split, from 0. Given without `split`, it is one of the five of He & Ding's
            protocol, `floor_split`.
        split: file that `Split.write` has written, such as the `split.json` of another run.
        exclude_held_out: whether to leave out of the source the items that are called like an item of the target's
            validation or test part, and image files that are copies of such an item's. For domains that show the same
            things, such as `Emoji`, or are the same.
        exclude_from_eval: classes that are left out of validation, test and prediction, but not of training. He &
            Ding leave out anger on IAPS-Subset, which has eight images of it.
        target_per_class: training items that are kept of each class of the target, chosen by `split_seed`; the others
            are left out altogether, from the transfer term too. None keeps all.
        balanced: whether training batches have as many items of each class in the mean.
        train_transform: image -> tensor for training; may be random (torch's generator), see `SeededView`.
        eval_transform: image -> tensor for validation, test and prediction; with a first dimension of crops, such as
            `FiveCropEval`, predictions are averaged over them. A transform with a method `match` is told what the
            network expects, see `EvalTransform.match`.
        features: folder to keep the frozen backbone's outputs in. Given, these are computed once and stand for the
            images in all batches, see `CachedFeatures`; training then sees what `eval_transform` shows.
        seed: seed of the batches and of random transforms.
        split_seed: seed of the splits, so that runs with different `seed` are tested on the same items.
        workers: loader processes of each domain. Batches do not depend on it.
        eval_batch: items of a batch in validation, test and prediction; if not given, four times those of training.

    Attributes:
        split: all folds of the target, by item name.
        items: domain -> (training items, validation items), by number.
        test_items: the target's, by number.

    Raises:
        ValueError: the domains' classes differ; a class has too few items to be split; there is no such fold or class;
            `split` is that of another data set; `features` together with `train_transform`, or (when training begins)
            with a backbone that is not frozen; (when loading) fewer items are evaluated than there are processes.
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
        fold: int | None = None,
        split: str | None = None,
        exclude_held_out: bool = False,
        exclude_from_eval: Sequence[str] = (),
        target_per_class: int | None = None,
        balanced: bool = False,
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        features: str | None = None,
        seed: int = 0,
        split_seed: int = 0,
        workers: int = 0,
        eval_batch: int | None = None,
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
        self.eval_batch_sizes = {name: eval_batch or 4 * size for name, size in self.batch_sizes.items()}
        self.steps_per_epoch = steps_per_epoch
        self.balanced = balanced
        self.transforms = {"train": train_transform, "eval": eval_transform}
        self.features = features
        if features is not None and train_transform is not None:
            raise ValueError(
                "features: the outputs of the backbone are computed once, so no random transform can have a part; "
                "set data.train_transform to null"
            )
        self.seed = seed
        self.workers = workers

        self.names = {name: item_names(domain) for name, domain in self.domains.items()}
        absent = [name for name in exclude_from_eval if name not in self.classes]
        if absent:
            raise ValueError(f"exclude_from_eval: expected some of the classes {self.classes}, got {absent}")

        if fold is None and split is None:
            self.split, fold = self._random_split(target_validation, target_test, split_seed), 0
        else:
            self.split = self._folds(split, split_seed)
        if fold is None or not 0 <= fold < len(self.split.folds):
            raise ValueError(f"fold: expected one of 0..{len(self.split.folds) - 1}, got {fold}")
        # In the order of the data set, which is the same whether the split is new or read.
        train, validation, test = (sorted(part) for part in self.split.folds[fold].places(self.names["target"]))
        if target_per_class is not None:
            train = self._few("target", train, target_per_class, split_seed)
        held_out = {self.names["target"][item] for item in (*validation, *test)} if exclude_held_out else set()
        if held_out and isinstance(source, ImageDomain) and isinstance(target, ImageDomain):
            for group in duplicates(
                *(domain if domain.inspections else checked(domain) for domain in (source, target))
            ):
                if any(number == 1 and name in held_out for number, name in group):
                    held_out.update(name for number, name in group if number == 0)
        rest = [item for item, name in enumerate(self.names["source"]) if name not in held_out]
        source_train, source_validation_items = self._cut("source", rest, source_validation, split_seed)

        def evaluated(name: str, items: list[int]) -> list[int]:
            return [item for item in items if self._label(name, item) not in exclude_from_eval]

        self.items = {
            "source": (source_train, evaluated("source", source_validation_items)),
            "target": (train, evaluated("target", validation)),
        }
        self.test_items = evaluated("target", test)

    @property
    def validated(self) -> bool:
        """Whether the target has validation items, without which no checkpoint can be best."""
        return bool(self.items["target"][1])

    def setup(self, stage: str) -> None:
        network = self.trainer.lightning_module.network
        for transform in self.transforms.values():
            match(transform, getattr(network, "preprocessing", None))
        if self.features is not None:
            if not getattr(network, "freeze_backbone", False):
                raise ValueError("features: a backbone that is trained has no fixed outputs; freeze it, or give none")
            self._compute_features(network.backbone)

    def train_dataloader(self) -> CombinedLoader:
        seen = self.trainer.lightning_module.seen
        loaders = {name: self._train_loader(name) for name in self.domains if name in seen}
        return CombinedLoader(loaders, "max_size_cycle")

    def val_dataloader(self) -> list[DataLoader]:
        """The validation parts of source and target, in this order."""
        return [self._eval_loader(name, held_out) for name, (_, held_out) in self.items.items()]

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("target", self.test_items)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def samples(self) -> dict[str, DataLoader]:
        """For a comparison of the domains, the target's test items and as many of the source's, evenly spaced.

        The source's are validation items if there are any, training items if not. Not shared out among processes.
        """
        train, held_out = self.items["source"]
        items = held_out or train
        count = min(len(items), len(self.test_items))
        chosen = {"source": [items[k * len(items) // count] for k in range(count)], "target": self.test_items}
        return {name: self._loader(name, items, self.eval_batch_sizes[name]) for name, items in chosen.items()}

    def _train_loader(self, name: str) -> DataLoader:
        domain, (items, _) = self.domains[name], self.items[name]
        sampler = StreamSampler(
            len(items),
            self.batch_sizes[name],
            self.steps_per_epoch,
            seed=(self.seed, list(self.domains).index(name)),
            first=lambda: self.trainer.fit_loop.epoch_loop.total_batch_idx + 1,
            labels=[int(domain.targets[item]) for item in items] if self.balanced else None,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
        )
        view = SeededView(domain, items, self.transforms["train"])
        return StreamLoader(view, batch_sampler=sampler, **self._loading())

    def _eval_loader(self, name: str, items: list[int]) -> DataLoader:
        """This process's share of the items: every `ranks`-th."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        if 0 < len(items) < ranks:
            raise ValueError(f"{name}: {len(items)} items to evaluate are too few for {ranks} processes")
        size = self.eval_batch_sizes[name]
        # Shares differ by one item, but not in their number of batches: processes wait for each other at each.
        least, more = divmod(len(items), ranks)
        while more and least % size == 0:
            size += 1
        return self._loader(name, items[rank::ranks], size)

    def _loader(self, name: str, items: list[int], size: int) -> DataLoader:
        view = View(self.domains[name], items, self.transforms["eval"])
        return DataLoader(view, batch_size=size, **self._loading())

    def _loading(self) -> dict[str, Any]:
        # A loader without a generator of its own draws from the global one whenever an iteration begins, and a resumed
        # run begins one more than an uninterrupted run: dropout would differ.
        return {
            "generator": torch.Generator(),
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _compute_features(self, backbone: nn.Module) -> None:
        """Puts the backbone's outputs in the place of images, if that has not been done."""
        transform, device = self.transforms["eval"], self.trainer.strategy.root_device
        for name, domain in self.domains.items():
            if not isinstance(domain, CachedFeatures):
                self.domains[name] = CachedFeatures(domain, backbone, transform, self.features, device)
        self.transforms = {"train": None, "eval": None}

    def _label(self, name: str, item: int) -> str:
        return self.classes[int(self.domains[name].targets[item])]

    def _folds(self, file: str | None, seed: int) -> Split:
        """The target's split: that of a file, or He & Ding's."""
        names = self.names["target"]
        labels = [self._label("target", item) for item in range(len(names))]
        if file is None:
            return floor_split(names, labels, self.classes, seed)
        split = Split.read(Path(file))
        split.verify(names, labels, getattr(self.domains["target"], "root", None))
        return split

    def _random_split(self, validation: float, test: float, seed: int) -> Split:
        """One fold of the target, drawn at random."""
        rest, tested = self._cut("target", range(len(self.names["target"])), test, seed)
        train, validated = self._cut("target", rest, validation / (1 - test), seed)
        name = self.names["target"].__getitem__
        fold = Fold(*(tuple(sorted(map(name, part))) for part in (train, validated, tested)))
        labels = {name(item): self._label("target", item) for part in (train, validated, tested) for item in part}
        protocol = {"name": "random", "seed": seed, "validation": validation, "test": test}
        return Split(protocol, tuple(self.classes), labels, (fold,))

    def _few(self, name: str, items: Sequence[int], count: int, seed: int) -> list[int]:
        """At most `count` of a domain's `items` of each class, in ascending order; less are a part of more."""
        members: dict[str, list[int]] = {}
        for item in np.random.default_rng(seed).permutation(items).tolist():
            members.setdefault(self._label(name, item), []).append(item)
        return sorted(item for of_class in members.values() for item in of_class[:count])

    def _cut(self, name: str, items: Sequence[int], part: float, seed: int) -> tuple[list[int], list[int]]:
        """Stratified split of a domain's `items` into (the rest, `part` of them), each in ascending order."""
        if part == 0:
            return list(items), []
        labels = [self._label(name, item) for item in items]
        try:
            rest, held_out = train_test_split(items, test_size=part, stratify=labels, random_state=seed)
        except ValueError as error:
            label, count = min(Counter(labels).items(), key=lambda pair: pair[1])
            raise ValueError(
                f"{name}: cannot hold out {part:.0%} of {len(labels)} items from every class; the smallest is "
                f"{label!r} with {count}: {error}"
            ) from error
        return sorted(rest), sorted(held_out)
