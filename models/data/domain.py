"""One domain of image files: names, labels and classes in memory, pictures on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from fastmmd.models.data.pictures import read_picture

if TYPE_CHECKING:
    from fastmmd.models.data.readers.scans import Inspection

# The label of a picture that has none.
UNLABELLED = -1
# How a data set divides itself, where it does: the parts of `ImageDomain.parts`.
PARTS = ("train", "val", "test")


class ImageDomain(Dataset):
    """Image files, with labels or without; items are (RGB picture, label), read as `data.pictures` says.

    Args:
        root: folder that the names are relative to.
        names: paths of the images below `root`, with "/"; they identify the items in splits and predictions.
        targets: label of each image, an index into `classes`, or `UNLABELLED`.
        classes: class names in label order. A class may be without images; without labels there are none.
        votes: [n, len(vote_names)], what raters said of each image, as distributed (counts, probabilities or scores).
        vote_names: what the columns of `votes` count.
        dropped: reason -> names of what the data set holds but this domain leaves out.
        parts: the part of each image, one of `PARTS`, where the data set divides itself (folders `train/` and
            `test/`); None where it doesn't, or where all is read as one.

    Attributes:
        inspections: name -> what a look at all files found, see `readers.scans`; empty before.

    Raises:
        ValueError: no images, an image or class named twice, a label outside the classes, or lengths that differ.
        OSError (on access): an image cannot be read; the error names the file.
    """

    def __init__(
        self,
        root: str | Path,
        names: Sequence[str],
        targets: Sequence[int],
        classes: Sequence[str],
        votes: np.ndarray | None = None,
        vote_names: Sequence[str] = (),
        dropped: Mapping[str, Sequence[str]] | None = None,
        parts: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.names = list(names)
        self.targets = [int(target) for target in targets]
        self.classes = list(classes)
        self.votes = votes
        self.vote_names = tuple(vote_names)
        self.dropped = {reason: list(left_out) for reason, left_out in (dropped or {}).items()}
        self.parts = None if parts is None else list(parts)
        self.inspections: Mapping[str, Inspection] = {}
        self._check()

    def _check(self) -> None:
        if not self.names:
            raise ValueError(f"no images in {self.root}")
        if len(self.names) != len(self.targets):
            raise ValueError(f"{self.root}: {len(self.names)} images, {len(self.targets)} labels")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(f"{self.root}: {len(twice)} images are listed more than once: {some(twice)}")
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ValueError(f"{self.root}: classes named more than once: {some(twice)}, of {self.classes}")
        if not all(target == UNLABELLED or 0 <= target < len(self.classes) for target in self.targets):
            raise ValueError(f"{self.root}: labels {sorted(set(self.targets))} for the classes {self.classes}")
        if self.votes is not None and self.votes.shape != (len(self.names), len(self.vote_names)):
            raise ValueError(
                f"{self.root}: votes {self.votes.shape} for {len(self.names)} images, columns {self.vote_names}"
            )
        if self.parts is not None and (len(self.parts) != len(self.names) or not set(self.parts) <= set(PARTS)):
            raise ValueError(f"{self.root}: expected one of the parts {PARTS} for each image, got {set(self.parts)}")

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(name, label) of every item: torchvision's name for what reports look an item's path up in."""
        return list(zip(self.names, self.targets, strict=True))

    @property
    def fingerprint(self) -> str:
        """Digest of the files as they are now: of their contents after a look at them, else of sizes and times."""
        state = [
            self.inspections[name].sha256 if self.inspections else self.stamp(item)
            for item, name in enumerate(self.names)
        ]
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        try:
            return read_picture(self.content(item)), self.targets[item]
        except Exception as error:  # PIL raises nearly every type on a broken file
            raise OSError(f"cannot read image {self.location(item)}: {type(error).__name__}: {error}") from error

    def location(self, item: int) -> str:
        """Where an item is stored, its whole path, for messages."""
        return str(self.root.absolute() / self.names[item])

    def content(self, item: int) -> bytes:
        """An item's image file."""
        return (self.root / self.names[item]).read_bytes()

    def stamp(self, item: int) -> tuple[int, int]:
        """Size of an item's file in bytes, and when it was last changed or put in its place, in ns."""
        stat = (self.root / self.names[item]).stat()
        # Files that were copied or unpacked have the times of their originals, so that two of one size may change
        # places unnoticed; the time of change of the entry tells.
        return stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)

    def subset(self, items: Sequence[int]) -> ImageDomain:
        """These items, in this order."""
        return self._changed(
            names=[self.names[item] for item in items],
            targets=[self.targets[item] for item in items],
            votes=None if self.votes is None else self.votes[list(items)],
            parts=None if self.parts is None else [self.parts[item] for item in items],
        )

    def without(self, names: Collection[str], reason: str) -> ImageDomain:
        """All but the images of these names, which are noted under `dropped[reason]`."""
        left_out = set(names)
        rest = self.subset([item for item, name in enumerate(self.names) if name not in left_out])
        rest.dropped[reason] = [*rest.dropped.get(reason, []), *sorted(left_out)]
        return rest

    def with_classes(self, classes: Sequence[str], rename: Mapping[str, str] | None = None) -> ImageDomain:
        """The images of these classes only, labelled in this order; images without a label stay.

        Args:
            classes: names after renaming.
            rename: old -> new class name; classes that get the same name become one.

        Raises:
            ValueError: a class that is not there; the error lists those that are.
        """
        rename = rename or {}
        renamed = [rename.get(name, name) for name in self.classes]
        absent = [name for name in rename if name not in self.classes]
        absent += [name for name in classes if name not in renamed]
        if absent:
            raise ValueError(f"{self.root}: no class {some(absent)}; the classes are {list(dict.fromkeys(renamed))}")
        label = {old: list(classes).index(name) for old, name in enumerate(renamed) if name in classes}
        label[UNLABELLED] = UNLABELLED
        chosen = self.subset([item for item, target in enumerate(self.targets) if target in label])
        left_out: dict[str, list[str]] = {}
        for name, target in self.samples:
            if target not in label:
                left_out.setdefault(f"class {renamed[target]!r} is not asked for", []).append(name)
        return chosen._changed(
            targets=[label[target] for target in chosen.targets],
            classes=list(classes),
            dropped={**chosen.dropped, **left_out},
        )

    def _changed(self, **attributes: Any) -> ImageDomain:
        changed = copy(self)
        changed.dropped = dict(self.dropped)
        vars(changed).update(attributes)
        changed._check()
        return changed


def some(names: Collection[str], count: int = 5) -> str:
    """The first few of many names, for messages."""
    shown = ", ".join(list(names)[:count])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > count else shown
