"""Divisions of a data set into training, validation and test parts, and the files that keep them.

Items are known by name, such as the path of an image below its data set's root, never by their place in a list: two
machines that list a folder in different order divide it alike.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fastmmd.models.data.domain import some
from fastmmd.models.files import write_atomically


@dataclass(frozen=True)
class Fold:
    """One division: the names of each part, ascending."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The folds of a data set, with all that is needed to find out later whether it is still the same set.

    Args:
        protocol: what made the folds: the protocol's name, its parameters and its seed.
        classes: the class names in label order.
        labels: the class of every item, by the item's name; "" for one without a label, which is for training.
        folds: the folds.
        hashes: the SHA-256 of every item's file, by name; None where there are no files.
    """

    protocol: Mapping[str, Any]
    classes: tuple[str, ...]
    labels: Mapping[str, str]
    folds: tuple[Fold, ...]
    hashes: Mapping[str, str] | None = None

    def write(self, path: Path) -> None:
        """Writes the split as JSON, with a hash over all of it. Training items are those in no other part."""
        with write_atomically(path) as file:
            json.dump(self.content(), file, indent=1)

    @classmethod
    def read(cls, path: Path) -> Split:
        """The split in a file that `write` has written.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no split, or was changed since.
        """
        if not path.is_file():
            raise FileNotFoundError(f"split: no file {path}; expected one that `fit` writes, such as RUN/split.json")
        try:
            return cls.from_content(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no split as `fit` writes it: {type(error).__name__}: {error}") from error

    def content(self) -> dict[str, Any]:
        """The split as plain values, with a hash over all of it."""
        items = {name: {"class": self.labels[name]} for name in sorted(self.labels)}
        for name, digest in (self.hashes or {}).items():
            items[name]["sha256"] = digest
        content = {
            "protocol": dict(self.protocol),
            "classes": list(self.classes),
            "items": items,
            "folds": [{"validation": list(fold.validation), "test": list(fold.test)} for fold in self.folds],
        }
        return {**content, "sha256": _content_hash(content)}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Split:
        """The split that `content` described.

        Raises:
            ValueError: it was changed since.
        """
        content = dict(content)
        if content.pop("sha256", None) != _content_hash(content):
            raise ValueError("it is not as it was written: its hash does not fit its content")
        items = content["items"]
        folds = [_fold(items, fold["test"], fold["validation"]) for fold in content["folds"]]
        hashes = {name: item["sha256"] for name, item in items.items() if "sha256" in item}
        labels = {name: item["class"] for name, item in items.items()}
        return cls(content["protocol"], tuple(content["classes"]), labels, tuple(folds), hashes or None)

    def with_unlabelled(self, names: Sequence[str]) -> Split:
        """The same with further items, which have no label, for training in every fold."""
        labels = {**self.labels, **dict.fromkeys(names, "")}
        return replace(
            self, labels=labels, folds=tuple(_fold(labels, fold.test, fold.validation) for fold in self.folds)
        )

    def compare(
        self, labels: Mapping[str, str], hashes: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, list[str]]]:
        """What differs between the set that was split and the one that is here.

        Args:
            labels: name -> class of what is here.
            hashes: name -> SHA-256 of its files; contents are compared if the split has them as well.

        Returns:
            "missing", "new", "of another class" and "of another content" -> the names, ascending; all four.
        """
        both = self.labels.keys() & labels.keys()
        changed = []
        if hashes is not None and self.hashes is not None:
            changed = [name for name in both & self.hashes.keys() if hashes.get(name) != self.hashes[name]]
        return {
            "missing": sorted(self.labels.keys() - labels.keys()),
            "new": sorted(labels.keys() - self.labels.keys()),
            "of another class": sorted(name for name in both if labels[name] != self.labels[name]),
            "of another content": sorted(changed),
        }

    def verify(self, labels: Mapping[str, str], hashes: Mapping[str, str] | None = None) -> None:
        """Makes sure that a data set is the one that was split.

        Args:
            labels, hashes: as in `compare`.

        Raises:
            ValueError: items are missing, new, of another class or with another content; the error names them.
        """
        told = [f"{len(names)} {what}: {some(names)}" for what, names in self.compare(labels, hashes).items() if names]
        if told:
            raise ValueError("this is not the data set that was split; " + "; ".join(told))


def floor_split(
    names: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    seed: int = 0,
    folds: int = 5,
    test: int = 15,
    validation: int = 5,
    repeats: int = 1,
) -> Split:
    """He & Ding's division (2020): 80 % training, 5 % validation, 15 % test, five times.

    Of a class with n items, floor(15 n / 100) are tested and floor(5 n / 100) validated; the rest is for training. The
    floors follow from the paper: its accuracies are whole numbers of images out of 5 x 54 on IAPS-Subset (5 x 55 less
    anger's single one) and mostly out of 5 x 117 on ArtPhoto. How its folds relate is not stated; here every class is
    shuffled once and cut into `folds` blocks, and fold k takes its test and validation items from block k. So no item
    is tested twice in one repeat, and a quarter of them is never tested.

    Args:
        names: unique item names, in any order: the result depends on the names and not on their order.
        labels: the class name of each item.
        classes: all class names in label order.
        seed: seed of the shuffles.
        folds: number of blocks.
        test, validation: parts of a class in whole percent.
        repeats: number of shuffles; the split has `repeats * folds` folds.

    Raises:
        ValueError: the parts do not fit into a block; a name is not unique; a label is not a class.
    """
    if (test + validation) * folds > 100:
        raise ValueError(f"{folds} disjoint blocks cannot hold {test} % test and {validation} % validation each")
    of = _by_name(names, labels, classes)
    parts = [(set(), set()) for _ in range(repeats * folds)]
    for members in _members(of).values():
        n = len(members)
        tested, validated = n * test // 100, n * validation // 100
        for repeat in range(repeats):
            order = _shuffled(members, seed, repeat)
            for k in range(folds):
                block = order[k * n // folds : (k + 1) * n // folds]
                held_out = parts[repeat * folds + k]
                held_out[0].update(block[:tested])
                held_out[1].update(block[tested : tested + validated])
    protocol = {"name": "floor_split", "seed": seed, "folds": folds, "test": test, "validation": validation}
    made = (_fold(of, *part) for part in parts)
    return Split(protocol | {"repeats": repeats}, tuple(classes), of, tuple(made))


def stratified_split(
    names: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    seed: int = 0,
    folds: int = 5,
    groups: Sequence[str] | None = None,
) -> Split:
    """Stratified k-fold cross-validation for small sets: every item is tested once, nothing is kept for validation.

    Args:
        names, labels, classes, seed: as in `floor_split`.
        folds: number of folds.
        groups: the group of each item, such as the emoji of which it is one vendor's drawing. A group is never torn
            between training and test.

    Raises:
        ValueError: a class has fewer items, or is found in fewer groups, than there are folds; a name is not unique; a
            label is not a class.
    """
    of = _by_name(names, labels, classes)
    order = sorted(of)
    targets = [of[name] for name in order]
    group = dict(zip(names, names if groups is None else groups, strict=True))
    apart = Counter(label for label, _ in {(of[name], group[name]) for name in order})
    for label, count in apart.items():
        if count < folds:
            unit = "items" if groups is None else "groups"
            raise ValueError(f"class {label!r} has {count} {unit}, too few for {folds} folds")
    if groups is None:
        cuts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(order, targets)
    else:
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        cuts = cutter.split(order, targets, [group[name] for name in order])
    made = (_fold(of, [order[k] for k in tested], ()) for _, tested in cuts)
    protocol = {"name": "stratified_split", "seed": seed, "folds": folds, "grouped": groups is not None}
    return Split(protocol, tuple(classes), of, tuple(made))


def _by_name(names: Sequence[str], labels: Sequence[str], classes: Sequence[str] | None = None) -> dict[str, str]:
    """The label of every name, both checked."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"item names must be unique; {len(twice)} are not: {some(sorted(twice))}")
    unknown = set(labels).difference(labels if classes is None else classes)
    if unknown:
        raise ValueError(f"labels must be class names out of {list(classes)}; others are {some(sorted(unknown))}")
    return dict(zip(names, labels, strict=True))


def _members(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of each class's items."""
    members = defaultdict(list)
    for name, label in labels.items():
        members[label].append(name)
    return members


def _shuffled(names: Sequence[str], seed: int, repeat: int) -> list[str]:
    # By a hash and not by a random generator: no release of a library changes it, and a new item moves no other.
    return sorted(names, key=lambda name: sha256(f"{seed} {repeat} {name}".encode()).digest())


def _fold(names: Mapping[str, Any], test: Sequence[str], validation: Sequence[str]) -> Fold:
    """The fold with these held-out parts; all other names are for training."""
    train = names.keys() - set(test) - set(validation)
    return Fold(*(tuple(sorted(part)) for part in (train, validation, test)))


def _content_hash(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
