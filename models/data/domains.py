"""Two domains as one LightningDataModule: the source to learn from, the target to transfer to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from fastmmd.models.data.division import Division
from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.folds import Split
from fastmmd.models.data.images import match
from fastmmd.models.data.readers.files import list_folder
from fastmmd.models.data.readers.folders import PART_NAMES
from fastmmd.models.data.readers.scans import checked
from fastmmd.models.data.sampling import SeededView, StreamLoader, StreamSampler, View, item_names


class DomainPair(LightningDataModule):
    """Source and target batches side by side for training; held-out parts of both for validation; the target's test.

    A domain is a map-style data set of (image, label) with the attributes `classes`, the class names in label order,
    and `targets`, every item's label. `ImageDomain` is one, as the readers of `data.readers` give it; torchvision's
    `ImageFolder` is taken as one, so that its pictures are read as all others are, unless it has a transform or loader
    of its own.

    A training batch is `{"source": (images, labels), "target": (images, labels)}`; the two sizes may differ. Whether
    the target's training labels are used is the model's choice; a domain that the model does not see in training is
    not loaded.

    The target may be without labels (`UNLABELLED`), all of it or some of its items: these are for training. Where
    nothing is labelled there is no test, and prediction is of all items.

    All splits are stratified. A domain that divides itself (`ImageDomain.parts`, folders `train/`, `val/`, `test/`) is
    divided so, if neither `fold` nor `split` says otherwise: what has no part of its own is drawn from its training
    part, and the source's test part is left out.

    The division is the run's: it is kept in checkpoints, and a run that resumes, tests or predicts takes it from there.
    Items that are new since then are named and not used. Items that are needed and missing, of another class or of
    another content are an error.

    To train and test on one data set, give it as source and as target, with `exclude_held_out`: the source is then what
    the split leaves for training, and a model that sees the source alone learns from these items.

    With several processes each has batches of its own, of the sizes given; what is evaluated is shared out among them.

    Args:
        source, target: the domains. Their classes must be equal, in the same order; a target without labels has none.
        source_batch, target_batch: items of each domain in a training batch. 36 + 36 is JAN's.
        steps_per_epoch: training batches in an epoch; both domains are sampled endlessly.
        source_validation: part of the source that is kept for validation.
        target_validation, target_test: likewise parts of the target, drawn at random; not used if there is a `fold`.
        fold: which fold of the target's split, from 0. Given without `split`, it is one of the five of He & Ding's
            protocol, `floor_split`.
        split: file that `Split.write` has written, such as the `split.json` of another run; of several folds, `fold`
            chooses one.
        exclude_held_out: whether to leave out of the source the items that are called like an item of the target's
            validation or test part (files in two folders excepted, whose names say nothing), and out of both domains'
            training the pictures that are copies of such an item's, pixel by pixel. For domains that show the same
            things, such as `Emoji`, or are the same.
        exclude_from_eval: classes that are left out of validation, test and prediction, but not of training. He &
            Ding leave out anger on IAPS-Subset, which has eight images of it.
        target_per_class: training items that are kept of each class of the target, chosen by `split_seed`; the others
            are left out altogether, from the transfer term too. None keeps all.
        balanced: whether training batches have as many items of each class in the mean, in domains whose labels the
            model uses.
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
        names: domain -> the names of its items.
        division: the parts by name and by number, and what is left out of them.

    Raises:
        ValueError: a number of items or steps is below 1; the domains' classes differ; a class has too few items to be
            split; there is no such fold or class; the source has items without labels; no training item is left;
            `split` is that of another data set; `features` together with `train_transform`, or (when training begins)
            with a backbone that is not frozen; (when training begins) the model would use labels that the target does
            not have; (when a checkpoint is loaded) the run's division is another than that asked for, or does not fit
            the data; (when loading) nothing is to be tested, or fewer items are evaluated than there are processes.
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
        self.domains = {"source": _inspected(source), "target": _inspected(target)}
        self.division = Division(
            self.domains,
            fold=fold,
            split=split,
            source_validation=source_validation,
            target_validation=target_validation,
            target_test=target_test,
            exclude_held_out=exclude_held_out,
            exclude_from_eval=exclude_from_eval,
            target_per_class=target_per_class,
            seed=split_seed,
        )
        self.classes = self.division.classes
        self.num_classes = len(self.classes)
        self.names = self.division.names
        counts = {"source_batch": source_batch, "target_batch": target_batch, "steps_per_epoch": steps_per_epoch}
        for name, count in (counts | ({} if eval_batch is None else {"eval_batch": eval_batch})).items():
            if count < 1:
                raise ValueError(f"{name}: expected 1 or more, got {count}")
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

    @property
    def split(self) -> Split:
        """The target's division, all folds."""
        return self.division.splits["target"]

    @property
    def items(self) -> dict[str, tuple[list[int], list[int]]]:
        """Domain -> (training items, validation items), by number."""
        return self.division.items

    @property
    def test_items(self) -> list[int]:
        """The target's, by number."""
        return self.division.test_items

    @property
    def validated(self) -> bool:
        """Whether the target has validation items, without which no checkpoint can be best."""
        return bool(self.items["target"][1])

    @property
    def predicted_items(self) -> list[int]:
        """The target's items that a prediction is of: those of its test; if there are none, all for training."""
        return self.test_items or self.items["target"][0]

    def setup(self, stage: str) -> None:
        module = self.trainer.lightning_module
        unlabelled = [item for item in self.items["target"][0] if self.division.label("target", item) == ""]
        if stage == "fit" and unlabelled and "target" in getattr(module, "labelled", ()):
            raise ValueError(
                f"target_labels: {len(unlabelled)} of the target's training items have no label, so expected "
                "'ignored', got 'used' (--model.target_labels=ignored)"
            )
        for transform in self.transforms.values():
            match(transform, getattr(module.network, "preprocessing", None))
        if self.features is not None:
            if not getattr(module.network, "freeze_backbone", False):
                raise ValueError("features: a backbone that is trained has no fixed outputs; freeze it, or give none")
            self._compute_features(module.network.backbone)

    def state_dict(self) -> dict[str, Any]:
        """The division, for checkpoints."""
        return self.division.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the division over from a checkpoint, see `Division.adopt`."""
        self.division.adopt(state, None if self.trainer is None else self.trainer.state.fn)

    def train_dataloader(self) -> CombinedLoader:
        seen = self.trainer.lightning_module.seen
        loaders = {name: self._train_loader(name) for name in self.domains if name in seen}
        return CombinedLoader(loaders, "max_size_cycle")

    def val_dataloader(self) -> list[DataLoader]:
        """The validation parts of source and target, in this order."""
        return [self._eval_loader(name, held_out) for name, (_, held_out) in self.items.items()]

    def test_dataloader(self) -> DataLoader:
        if not self.test_items:
            raise ValueError(
                "the target has no test items, for want of labels or by data.target_test: there is nothing to test; "
                "`predict` classifies without labels"
            )
        return self._eval_loader("target", self.test_items)

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader("target", self.predicted_items)

    def samples(self) -> dict[str, DataLoader]:
        """For a comparison of the domains, the target's predicted items and as many of the source's, evenly spaced.

        The source's are validation items if there are any, training items if not. Not shared out among processes.
        """
        train, held_out = self.items["source"]
        items = held_out or train
        count = min(len(items), len(self.predicted_items))
        chosen = {"source": [items[k * len(items) // count] for k in range(count)], "target": self.predicted_items}
        return {name: self._loader(name, items, self.eval_batch_sizes[name]) for name, items in chosen.items()}

    def _train_loader(self, name: str) -> DataLoader:
        domain, (items, _) = self.domains[name], self.items[name]
        balanced = self.balanced and name in self.trainer.lightning_module.labelled
        sampler = StreamSampler(
            len(items),
            self.batch_sizes[name],
            self.steps_per_epoch,
            seed=(self.seed, list(self.domains).index(name)),
            first=lambda: self.trainer.fit_loop.epoch_loop.total_batch_idx + 1,
            labels=[int(domain.targets[item]) for item in items] if balanced else None,
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


def _inspected(dataset: Dataset) -> Dataset:
    """The data set; files of images after a look at all of them, and read by this package in torchvision's place.

    Raises:
        ValueError: it is no domain, or an `ImageFolder` that takes the parts of a data set for classes.
    """
    absent = [name for name in ("classes", "targets") if not hasattr(dataset, name)]
    if absent:
        kind = type(dataset).__name__
        raise ValueError(f"expected a data set with the attributes classes and targets; {kind} has no {absent[0]}")
    if type(dataset) is ImageFolder and dataset.transforms is None and dataset.loader is default_loader:
        if {name.lower() for name in dataset.classes} <= PART_NAMES.keys():
            raise ValueError(
                f"{dataset.root}: ImageFolder takes the parts {', '.join(dataset.classes)} for classes; use "
                "fastmmd.models.data.readers.read_domain with the reader image_folder"
            )
        names = item_names(dataset)
        dropped = list_folder(Path(dataset.root)).dropped(names, "not read by torchvision's ImageFolder")
        dataset = ImageDomain(dataset.root, names, dataset.targets, dataset.classes, dropped=dropped)
    return checked(dataset) if isinstance(dataset, ImageDomain) and not dataset.inspections else dataset
