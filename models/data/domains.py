"""Two domains as one LightningDataModule: the source to learn from, the target to transfer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from fastmmd.models.data.domain import UNLABELLED, ImageDomain, some
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.folds import Fold, Split, floor_split
from fastmmd.models.data.images import match
from fastmmd.models.data.readers.scans import checked, duplicates
from fastmmd.models.data.sampling import SeededView, StreamLoader, StreamSampler, View, item_names

COPY = "copy of a held-out picture of the target"


class DomainPair(LightningDataModule):
    """Source and target batches side by side for training; held-out parts of both for validation; the target's test.

    A domain is a map-style data set of (image, label) with the attributes `classes`, the class names in label order,
    and `targets`, every item's label. `ImageDomain` is one, as the readers of `data.readers` give it; torchvision's
    `ImageFolder` is taken as one, so that its pictures are read as all others are.

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
        split: file that `Split.write` has written, such as the `split.json` of another run.
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
        splits: domain -> its division by item name. The target's has all folds; the source's has one, of the items
            that are used.
        fold: which of the target's folds.
        items: domain -> (training items, validation items), by number.
        test_items: the target's, by number.
        left_out: domain -> reason -> names of items that are in no part.

    Raises:
        ValueError: the domains' classes differ; a class has too few items to be split; there is no such fold or class;
            the source has items without labels; no training item is left; `split` is that of another data set;
            `features` together with `train_transform`, or (when training begins) with a backbone that is not frozen;
            (when training begins) the model would use labels that the target does not have; (when a checkpoint is
            loaded) the run's division is another than that asked for, or does not fit the data; (when loading) nothing
            is to be tested, or fewer items are evaluated than there are processes.
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
        self.classes = list(source.classes)
        self.num_classes = len(self.classes)
        self._check_classes()
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
        self.split_seed = split_seed
        self.workers = workers
        self.exclude_held_out = exclude_held_out
        self.exclude_from_eval = list(exclude_from_eval)
        self.target_per_class = target_per_class

        self.names = {name: item_names(domain) for name, domain in self.domains.items()}
        absent = [name for name in exclude_from_eval if name not in self.classes]
        if absent:
            raise ValueError(f"exclude_from_eval: expected some of the classes {self.classes}, got {absent}")

        self.splits = {"target": self._target_split(fold, split, target_validation, target_test)}
        self.fold = 0 if fold is None and split is None else fold
        if self.fold is None or not 0 <= self.fold < len(self.split.folds):
            raise ValueError(f"fold: expected one of 0..{len(self.split.folds) - 1}, got {self.fold}")
        self.splits["source"] = self._source_split(source_validation)
        self._assign()

    @property
    def split(self) -> Split:
        """The target's division, all folds."""
        return self.splits["target"]

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
        unlabelled = [item for item in self.items["target"][0] if self._label("target", item) == ""]
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
        return {"fold": self.fold, "splits": {name: split.content() for name, split in self.splits.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the division over from a checkpoint, if it fits what is asked for and the data that are here."""
        recorded = {name: Split.from_content(content) for name, content in state["splits"].items()}
        asked, had = ((self.splits[n].protocol for n in recorded), (split.protocol for split in recorded.values()))
        if state["fold"] != self.fold or list(asked) != list(had):
            raise ValueError(
                "this is another division of the data than the run's, whose training items it may test: the run has "
                f"{_protocol(recorded, state['fold'])}; asked for is {_protocol(self.splits, self.fold)}"
            )
        self.splits = recorded
        for name, split in recorded.items():
            self._compare(name, split)
        self._assign()

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

    def copies(self) -> list[list[tuple[str, str]]]:
        """Groups of (domain, name) of pictures that are the same pixel by pixel; none of domains that have no files."""
        names = [name for name, domain in self.domains.items() if isinstance(domain, ImageDomain)]
        groups = duplicates(*(self.domains[name] for name in names))
        return [[(names[number], name) for number, name in group] for group in groups]

    def _check_classes(self) -> None:
        source, target = self.domains.values()
        if not source.classes or UNLABELLED in source.targets:
            raise ValueError("source: expected a label for every item, got items without one")
        if not target.classes and all(label == UNLABELLED for label in target.targets):
            return
        if list(target.classes) == self.classes:
            return
        only = {
            "only in the source": [name for name in source.classes if name not in target.classes],
            "only in the target": [name for name in target.classes if name not in source.classes],
        }
        told = "; ".join(f"{where}: {', '.join(names)}" for where, names in only.items() if names)
        raise ValueError(
            "source and target must have the same classes in the same order; "
            f"source has {list(source.classes)}, target has {list(target.classes)} ({told or 'in another order'}). "
            "Readers take `classes` and `rename` to choose, order and merge them; a target whose labels are of no use "
            "is read by the reader `unlabelled`"
        )

    def _assign(self) -> None:
        """The items of each part, from the splits."""
        self.left_out: dict[str, dict[str, list[str]]] = {"source": {}, "target": {}}
        numbers = {name: {item: k for k, item in enumerate(names)} for name, names in self.names.items()}
        parts = {}
        for name, fold in (("source", self.splits["source"].folds[0]), ("target", self.split.folds[self.fold])):
            # In the order of the data set, which is the same whether the split is new or read. Names that are not here
            # any more have been found not to be needed.
            by_part = (fold.train, fold.validation, fold.test)
            parts[name] = [sorted(numbers[name][k] for k in part if k in numbers[name]) for part in by_part]
            used = {item for part in by_part for item in part}
            if rest := [item for item in self.names[name] if item not in used]:
                self.left_out[name]["in no part"] = rest
        train, validation, test = parts["target"]
        if self.target_per_class is not None:
            kept = self._few("target", train, self.target_per_class, self.split_seed)
            self._leave_out("target", f"more than {self.target_per_class} of a class", set(train) - set(kept))
            train = kept
        if self.exclude_held_out:
            held_out = {("target", self.names["target"][item]) for item in (*validation, *test)}
            copies = {member for group in self.copies() if held_out & set(group) for member in group} - held_out
            copied = {item for item in train if ("target", self.names["target"][item]) in copies}
            self._leave_out("target", COPY, copied)
            train = [item for item in train if item not in copied]
        for name, items in (("source", parts["source"][0]), ("target", train)):
            if not items:
                raise ValueError(f"{name}: no items are left for training")

        def evaluated(name: str, items: list[int]) -> list[int]:
            return [item for item in items if self._label(name, item) not in self.exclude_from_eval]

        self.items = {
            "source": (parts["source"][0], evaluated("source", parts["source"][1])),
            "target": (train, evaluated("target", validation)),
        }
        self.test_items = evaluated("target", test)

    def _leave_out(self, name: str, reason: str, items: set[int]) -> None:
        if items:
            self.left_out[name][reason] = [self.names[name][item] for item in sorted(items)]

    def _target_split(self, fold: int | None, file: str | None, validation: float, test: float) -> Split:
        """The division of a file, of He & Ding, of the data set's own parts, or drawn at random."""
        names = self.names["target"]
        labels = self._labels("target")
        unlabelled = [name for name in names if labels[name] == ""]
        if file is not None:
            split = Split.read(Path(file))
            split.verify(labels, self._hashes("target"))
            return split
        labelled = [item for item, name in enumerate(names) if labels[name] != ""]
        if fold is not None:
            if not labelled:
                raise ValueError(f"fold: expected none, for the target has no labels to be split by, got {fold}")
            known = [names[item] for item in labelled]
            split = floor_split(known, [labels[name] for name in known], self.classes, self.split_seed)
        else:
            split = self._own_split("target", labelled, validation, test)
        return replace(split.with_unlabelled(unlabelled), hashes=self._hashes("target"))

    def _source_split(self, validation: float) -> Split:
        """The source without what `exclude_held_out` leaves out of it, in the data set's parts or drawn at random."""
        excluded = self._excluded_from_source()
        rest = [item for item, name in enumerate(self.names["source"]) if name not in excluded]
        split = self._own_split("source", rest, validation, 0.0)
        hashes = self._hashes("source")
        return split if hashes is None else replace(split, hashes={name: hashes[name] for name in split.labels})

    def _own_split(self, name: str, items: Sequence[int], validation: float, test: float) -> Split:
        """One fold of a domain's labelled items: in its own parts where it has such, the others drawn at random."""
        parts = getattr(self.domains[name], "parts", None)
        protocol = {"name": "random", "seed": self.split_seed, "validation": validation}
        if name == "target":
            protocol["test"] = test
        if parts is None:
            train, tested = self._cut(name, items, "test", test)
            train, validated = self._cut(name, train, "validation", validation / (1 - test) if test < 1 else 0.0)
        else:
            given = {part: [item for item in items if parts[item] == part] for part in ("train", "val", "test")}
            train, validated, tested = given.values()
            protocol["name"] = "parts of the data set, at random where it has none"
            if name == "source":
                tested = []
            elif not tested:
                train, tested = self._cut(name, train, "test", test)
            if not validated:
                train, validated = self._cut(name, train, "validation", validation)
        names = self.names[name]
        fold = Fold(*(tuple(sorted(names[item] for item in part)) for part in (train, validated, tested)))
        labels = {names[item]: self._label(name, item) for part in (train, validated, tested) for item in part}
        return Split(protocol, tuple(self.classes), labels, (fold,))

    def _compare(self, name: str, split: Split) -> None:
        """Looks for what has changed in a domain since the run divided it.

        Raises:
            ValueError: items that are needed now are missing, or have another class or content; the error names them.
        """
        domain, labels, hashes = self.domains[name], self._labels(name), self._hashes(name)
        root = getattr(domain, "root", name)
        fold = split.folds[0 if name == "source" else self.fold]
        stage = None if self.trainer is None else self.trainer.state.fn
        needed = {
            None: split.labels.keys(),
            "fit": split.labels.keys(),
            "validate": set(fold.validation),
            "test": set(fold.test) if name == "target" else set(),
            "predict": set(fold.test or fold.train) if name == "target" else set(),
        }[stage]
        changes = split.compare(labels, hashes)
        new = changes.pop("new")
        if name == "source":
            new = sorted(set(new) - self._excluded_from_source())
        wrong = {what: [k for k in names if k in needed] for what, names in changes.items()}
        if any(wrong.values()):
            told = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in wrong.items() if names)
            raise ValueError(
                f"{name}: {root} does not hold what the run was divided into: {told}. Put it back, or begin a new run "
                "with another --output"
            )
        for what, names in {**changes, "new": new}.items():
            if names:
                use = "not used by this run" if what == "new" else "not needed here"
                rank_zero_warn(
                    f"{name}: {len(names)} items of {root} are {what} since the run began, {use}: {some(names)}"
                )

    def _excluded_from_source(self) -> set[str]:
        """Names of the source's items that `exclude_held_out` leaves out."""
        if not self.exclude_held_out:
            return set()
        fold = self.split.folds[self.fold]
        held_out = {("target", name) for name in (*fold.validation, *fold.test)}
        groups = [set(group) for group in self.copies()]
        copies = {name for group in groups if group & held_out for domain, name in group if domain == "source"}
        files = [domain.root.resolve() for domain in self.domains.values() if isinstance(domain, ImageDomain)]
        # Files of two folders may be called alike; what else is called alike is the same.
        alike = set() if len(set(files)) == 2 else {name for _, name in held_out}
        return alike | copies

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

    def _label(self, name: str, item: int) -> str:
        """An item's class, "" if it has none."""
        target = int(self.domains[name].targets[item])
        return "" if target == UNLABELLED else self.classes[target]

    def _labels(self, name: str) -> dict[str, str]:
        return {item_name: self._label(name, item) for item, item_name in enumerate(self.names[name])}

    def _hashes(self, name: str) -> dict[str, str] | None:
        """Item name -> SHA-256 of its file; None where there are no files."""
        domain = self.domains[name]
        if not isinstance(domain, ImageDomain):
            return None
        return {item: domain.inspections[item].sha256 for item in domain.names}

    def _few(self, name: str, items: Sequence[int], count: int, seed: int) -> list[int]:
        """At most `count` of a domain's `items` of each class, in ascending order; less are a part of more. Items
        without a label stay."""
        members: dict[str, list[int]] = {}
        for item in np.random.default_rng(seed).permutation(items).tolist():
            members.setdefault(self._label(name, item), []).append(item)
        return sorted(item for label, of_class in members.items() for item in of_class[: count if label else None])

    def _cut(self, name: str, items: Sequence[int], what: str, part: float) -> tuple[list[int], list[int]]:
        """Stratified split of a domain's `items` into (the rest, `part` of them for `what`), each in ascending order.

        Where `part` is less than one item a class, classes have one or none, the largest first.
        """
        if part == 0 or not items:
            return list(items), []
        labels = [self._label(name, item) for item in items]
        label, count = min(Counter(labels).items(), key=lambda pair: pair[1])
        if count < 2 or not 0 < part < 1:
            raise ValueError(
                f"{name}: cannot hold out {part:.0%} of {len(labels)} items from every class; the smallest is {label!r}"
                f" with {count}; see data.{name}_{what} (0 holds out nothing), or choose other `classes`"
            )
        try:
            rest, held_out = train_test_split(items, test_size=part, stratify=labels, random_state=self.split_seed)
        except ValueError:  # fewer than one item a class
            held_out = _largest_remainders(items, labels, part, self.split_seed)
            rest = set(items) - set(held_out)
        return sorted(rest), sorted(held_out)


def _inspected(dataset: Dataset) -> Dataset:
    """The data set; files of images after a look at all of them, and read by this package in torchvision's place."""
    if type(dataset) is ImageFolder and dataset.transforms is None:
        dataset = ImageDomain(dataset.root, item_names(dataset), dataset.targets, dataset.classes)
    return checked(dataset) if isinstance(dataset, ImageDomain) and not dataset.inspections else dataset


def _largest_remainders(items: Sequence[int], labels: Sequence[str], part: float, seed: int) -> list[int]:
    """About `part` of the items, of each class its share rounded down or up, and never all."""
    generator = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for k in generator.permutation(len(items)).tolist():
        members.setdefault(labels[k], []).append(items[k])
    shares = {label: part * len(of_class) for label, of_class in sorted(members.items())}
    counts = {label: min(int(share), len(members[label]) - 1) for label, share in shares.items()}
    missing = round(part * len(items)) - sum(counts.values())
    for label in sorted(shares, key=lambda label: counts[label] - shares[label])[: max(missing, 0)]:
        counts[label] = min(counts[label] + 1, len(members[label]) - 1)
    return [item for label, count in counts.items() for item in members[label][:count]]


def _protocol(splits: Mapping[str, Split], fold: int) -> str:
    """How two domains are divided, for messages."""
    told = (f"{name}: {', '.join(f'{k} {v}' for k, v in split.protocol.items())}" for name, split in splits.items())
    return f"fold {fold} ({'; '.join(told)})"
