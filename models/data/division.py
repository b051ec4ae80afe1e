"""How two domains are divided for training, validation and test, and whether it is still the same division."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset

from fastmmd.models.data.domain import PARTS, UNLABELLED, ImageDomain, some
from fastmmd.models.data.folds import Fold, Split, floor_split
from fastmmd.models.data.readers.classes import plain
from fastmmd.models.data.readers.scans import duplicates
from fastmmd.models.data.sampling import item_names

COPY = "copy of a held-out picture of the target"
HELD_OUT = "held out in the target, or a copy of such a picture"


class Division:
    """The parts of a source and a target. Arguments, and what they do, are those of `DomainPair`.

    Args:
        domains: "source" and "target".
        fold, split, source_validation, target_validation, target_test: where the parts come from.
        exclude_held_out, exclude_from_eval, target_per_class: what is left out of them.
        seed: of everything that is drawn.

    Attributes:
        names: domain -> the names of its items.
        splits: domain -> its division by item name. The target's has all folds; the source's has one, of the items
            that are used.
        fold: which of the target's folds.
        items: domain -> (training items, validation items), by number.
        test_items: the target's, by number.
        left_out: domain -> reason -> names of items that are in no part.

    Raises:
        ValueError: as `DomainPair`.
    """

    def __init__(
        self,
        domains: Mapping[str, Dataset],
        fold: int | None,
        split: str | None,
        source_validation: float,
        target_validation: float,
        target_test: float,
        exclude_held_out: bool,
        exclude_from_eval: Sequence[str],
        target_per_class: int | None,
        seed: int,
    ) -> None:
        self.domains = dict(domains)
        self.classes = list(domains["source"].classes)
        self._check_classes()
        absent = [name for name in exclude_from_eval if name not in self.classes]
        if absent:
            raise ValueError(f"exclude_from_eval: expected some of the classes {self.classes}, got {absent}")
        if target_per_class is not None and target_per_class < 1:
            raise ValueError(f"target_per_class: expected at least 1, or none for all, got {target_per_class}")
        _check_shares(source_validation=source_validation)
        if fold is None and split is None:
            _check_shares(target_validation=target_validation, target_test=target_test)
        self.exclude_held_out = exclude_held_out
        self.exclude_from_eval = list(exclude_from_eval)
        self.target_per_class = target_per_class
        self.seed = seed
        self.names = {name: item_names(domain) for name, domain in self.domains.items()}
        self.splits = {"target": self._target_split(fold, split, target_validation, target_test)}
        folds = self.splits["target"].folds
        self.fold = 0 if fold is None and len(folds) == 1 else fold
        if self.fold is None or not 0 <= self.fold < len(folds):
            told = "" if split is None else f", the folds of {split}"
            raise ValueError(f"fold: expected one of 0..{len(folds) - 1}, got {self.fold}{told}")
        self.splits["source"] = self._source_split(source_validation)
        self._assign()

    def label(self, name: str, item: int) -> str:
        """An item's class, "" if it has none."""
        target = int(self.domains[name].targets[item])
        return "" if target == UNLABELLED else self.classes[target]

    def copies(self) -> list[list[tuple[str, str]]]:
        """Groups of (domain, name) of pictures that are the same pixel by pixel; none of domains that have no files."""
        names = [name for name, domain in self.domains.items() if isinstance(domain, ImageDomain)]
        groups = duplicates(*(self.domains[name] for name in names))
        return [[(names[number], name) for number, name in group] for group in groups]

    def state(self) -> dict[str, Any]:
        """The division as plain values, for checkpoints."""
        return {"fold": self.fold, "splits": {name: split.content() for name, split in self.splits.items()}}

    def adopt(self, state: Mapping[str, Any], stage: str | None = None) -> None:
        """Takes a run's division over, if it is what is asked for and the data are still there.

        Args:
            state: of the run's division.
            stage: what the items are needed for: "fit", "validate", "test" or "predict"; everything if not given.

        Raises:
            ValueError: another division is asked for, or items that are needed are missing or have another class or
                content; the error names them.
        """
        recorded = {name: Split.from_content(content) for name, content in state["splits"].items()}
        if state["fold"] != self.fold or any(self.splits[n].protocol != recorded[n].protocol for n in recorded):
            raise ValueError(
                "this is another division of the data than the run's, whose training items it may test: the run has "
                f"{_protocol(recorded, state['fold'])}; asked for is {_protocol(self.splits, self.fold)}"
            )
        self.splits = recorded
        for name in recorded:
            self._compare(name, stage)
        self._assign()

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
        if set(map(plain, source.classes)) == set(map(plain, target.classes)) and any(only.values()):
            told += (
                f"; {', '.join(map(ascii, only['only in the source']))} and "
                f"{', '.join(map(ascii, only['only in the target']))} differ in case, blanks or Unicode's form only: "
                "rename the folders, or give the reader's option classes, which are found in any form"
            )
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
        for name in self.domains:
            fold = self._fold(name)
            # In the order of the data set, which is the same whether the split is new or read. Names that are not here
            # any more have been found not to be needed.
            by_part = (fold.train, fold.validation, fold.test)
            parts[name] = [sorted(numbers[name][k] for k in part if k in numbers[name]) for part in by_part]
            used = {item for part in by_part for item in part}
            self._leave_out_rest(name, [item for item in self.names[name] if item not in used])
        train, validation, test = parts["target"]
        if self.target_per_class is not None:
            kept = self._few("target", train, self.target_per_class)
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
                _, validated, tested = map(len, parts[name])
                raise ValueError(
                    f"{name}: no items are left for training: of {len(self.names[name])}, {validated} are for "
                    f"validation, {tested} for the test, the others left out"
                    + ("; part: all divides the set anew" if getattr(self.domains[name], "parts", None) else "")
                )

        def evaluated(name: str, items: list[int]) -> list[int]:
            return [item for item in items if self.label(name, item) not in self.exclude_from_eval]

        self.items = {
            "source": (parts["source"][0], evaluated("source", parts["source"][1])),
            "target": (train, evaluated("target", validation)),
        }
        self.test_items = evaluated("target", test)

    def _fold(self, name: str) -> Fold:
        return self.splits[name].folds[0 if name == "source" else self.fold]

    def _leave_out_rest(self, name: str, rest: Sequence[str]) -> None:
        """Notes why items are in no part of the division."""
        excluded = self._excluded_from_source() if name == "source" and rest else set()
        tested = self._test_part_of_source() if name == "source" else set()
        for item in rest:
            if item in excluded:
                reason = HELD_OUT
            elif item in tested:
                reason = "the test part, of use in a target only"
            else:
                reason = "not in the division of the run"
            self.left_out[name].setdefault(reason, []).append(item)

    def _leave_out(self, name: str, reason: str, items: set[int]) -> None:
        if items:
            self.left_out[name][reason] = [self.names[name][item] for item in sorted(items)]

    def _target_split(self, fold: int | None, file: str | None, validation: float, test: float) -> Split:
        """The division of a file, of He & Ding, of the data set's own parts, or drawn at random."""
        names, labels = self.names["target"], self._labels("target")
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
            split = floor_split(known, [labels[name] for name in known], self.classes, self.seed)
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
        protocol = {"name": "random", "seed": self.seed, "validation": validation}
        if name == "target":
            protocol["test"] = test
        if parts is None:
            train, tested = self._cut(name, items, "test", test)
            train, validated = self._cut(name, train, "validation", validation / (1 - test) if test < 1 else 0.0)
        else:
            given = {part: [item for item in items if parts[item] == part] for part in PARTS}
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
        labels = {names[item]: self.label(name, item) for part in (train, validated, tested) for item in part}
        return Split(protocol, tuple(self.classes), labels, (fold,))

    def _compare(self, name: str, stage: str | None) -> None:
        """Looks for what has changed in a domain since the run divided it.

        Raises:
            ValueError: items that are needed now are missing, or have another class or content; the error names them.
        """
        root = getattr(self.domains[name], "root", name)
        split, fold = self.splits[name], self._fold(name)
        needed = {
            None: split.labels.keys(),
            "fit": split.labels.keys(),
            "validate": set(fold.validation),
            "test": set(fold.test) if name == "target" else set(),
            "predict": set(fold.test or fold.train) if name == "target" else set(),
        }[stage]
        changes = split.compare(self._labels(name), self._hashes(name))
        new = changes.pop("new")
        if name == "source":
            new = sorted(set(new) - self._excluded_from_source() - self._test_part_of_source())
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
        fold = self._fold("target")
        held_out = {("target", name) for name in (*fold.validation, *fold.test)}
        groups = [set(group) for group in self.copies()]
        copies = {name for group in groups if group & held_out for domain, name in group if domain == "source"}
        files = [domain.root.resolve() for domain in self.domains.values() if isinstance(domain, ImageDomain)]
        # Files of two folders may be called alike; what else is called alike is the same.
        alike = set() if len(set(files)) == 2 else {name for _, name in held_out}
        return alike | copies

    def _test_part_of_source(self) -> set[str]:
        """Names of the items of the source's own test part, which is in no part of the division."""
        parts = getattr(self.domains["source"], "parts", None) or []
        return {name for name, part in zip(self.names["source"], parts, strict=False) if part == "test"}

    def _labels(self, name: str) -> dict[str, str]:
        return {item_name: self.label(name, item) for item, item_name in enumerate(self.names[name])}

    def _hashes(self, name: str) -> dict[str, str] | None:
        """Item name -> SHA-256 of its file; None where there are no files."""
        domain = self.domains[name]
        if not isinstance(domain, ImageDomain):
            return None
        return {item: domain.inspections[item].sha256 for item in domain.names}

    def _few(self, name: str, items: Sequence[int], count: int) -> list[int]:
        """At most `count` of a domain's `items` of each class, in ascending order; less are a part of more. Items
        without a label stay."""
        members: dict[str, list[int]] = {}
        for item in np.random.default_rng(self.seed).permutation(items).tolist():
            members.setdefault(self.label(name, item), []).append(item)
        return sorted(item for label, of_class in members.items() for item in of_class[: count if label else None])

    def _cut(self, name: str, items: Sequence[int], what: str, part: float) -> tuple[list[int], list[int]]:
        """Stratified split of a domain's `items` into (the rest, `part` of them for `what`), each in ascending order.

        Where `part` is less than one item a class, classes have one or none, the largest first.
        """
        if part == 0 or not items:
            return list(items), []
        labels = [self.label(name, item) for item in items]
        label, count = min(Counter(labels).items(), key=lambda pair: pair[1])
        if count < 2 or not 0 < part < 1:
            raise ValueError(
                f"{name}: cannot hold out {part:.0%} of {len(labels)} items from every class; the smallest is {label!r}"
                f" with {count}; see data.{name}_{what} (0 holds out nothing), or choose other `classes`"
            )
        try:
            rest, held_out = train_test_split(items, test_size=part, stratify=labels, random_state=self.seed)
        except ValueError:  # fewer than one item a class
            held_out = _largest_remainders(items, labels, part, self.seed)
            rest = set(items) - set(held_out)
        return sorted(rest), sorted(held_out)


def _check_shares(**shares: float) -> None:
    """Makes sure that these shares of a domain can be held out together."""
    told = ", ".join(f"{name} {share}" for name, share in shares.items())
    if not all(0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise ValueError(f"expected shares of 0 or more that leave some for training, got {told}")


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
