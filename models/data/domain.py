"""One labelled domain of image files: names, labels and classes in memory, pictures on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset


class ImageDomain(Dataset):
    """Image files with labels; items are (RGB picture, label).

    Args:
        root: folder that the names are relative to.
        names: paths of the images below `root`, with "/"; they identify the items in splits and predictions.
        targets: label of each image, an index into `classes`.
        classes: class names in label order. A class may be without images.
        votes: [n, len(vote_names)], what raters said of each image, as distributed (counts, probabilities or scores).
        vote_names: what the columns of `votes` count.
        dropped: reason -> names of what the data set holds but this domain leaves out.

    Raises:
        ValueError: no images, an image named twice, a label outside the classes, or lengths that differ.
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
    ) -> None:
        self.root = Path(root)
        self.names = list(names)
        self.targets = [int(target) for target in targets]
        self.classes = list(classes)
        self.votes = votes
        self.vote_names = tuple(vote_names)
        self.dropped = {reason: list(left_out) for reason, left_out in (dropped or {}).items()}
        # torchvision's name for the same; what reports and predictions look an item's path up in.
        self.samples = list(zip(self.names, self.targets, strict=True))

        if not self.names:
            raise ValueError(f"no images in {self.root}")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(f"{self.root}: {len(twice)} images are listed more than once: {some(twice)}")
        if not all(0 <= target < len(self.classes) for target in self.targets):
            raise ValueError(f"{self.root}: labels {sorted(set(self.targets))} for the classes {self.classes}")
        if votes is not None and votes.shape != (len(self.names), len(self.vote_names)):
            raise ValueError(
                f"{self.root}: votes {votes.shape} for {len(self.names)} images, columns {self.vote_names}"
            )

    @property
    def fingerprint(self) -> str:
        """Of the files as they are now: sizes and times of change."""
        stats = [(self.root / name).stat() for name in self.names]
        return hashlib.sha256(repr([(stat.st_size, stat.st_mtime_ns) for stat in stats]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        path = self.root / self.names[item]
        try:
            with Image.open(path) as image:
                return to_rgb(image), self.targets[item]
        except Exception as error:  # PIL raises nearly every type on a broken file
            raise OSError(f"cannot read image {path}: {type(error).__name__}: {error}") from error

    def subset(self, items: Sequence[int]) -> ImageDomain:
        """These items, in this order."""
        return ImageDomain(
            self.root,
            [self.names[item] for item in items],
            [self.targets[item] for item in items],
            self.classes,
            None if self.votes is None else self.votes[list(items)],
            self.vote_names,
            self.dropped,
        )

    def without(self, names: Collection[str], reason: str) -> ImageDomain:
        """All but the images of these names, which are noted under `dropped[reason]`."""
        left_out = set(names)
        rest = self.subset([item for item, name in enumerate(self.names) if name not in left_out])
        rest.dropped[reason] = [*rest.dropped.get(reason, []), *sorted(left_out)]
        return rest

    def with_classes(self, classes: Sequence[str], rename: Mapping[str, str] | None = None) -> ImageDomain:
        """The images of these classes only, labelled in this order.

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
        label = {name: index for index, name in enumerate(classes)}
        chosen = self.subset([item for item, target in enumerate(self.targets) if renamed[target] in label])
        return ImageDomain(
            self.root,
            chosen.names,
            [label[renamed[target]] for target in chosen.targets],
            classes,
            chosen.votes,
            self.vote_names,
            self.dropped,
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB.

    16-bit grey is scaled (PIL's own conversion clips it to white); transparent pictures are laid on white, as browsers
    do, for their hidden colours are arbitrary. CMYK, palette, grey and bilevel are PIL's conversions. Of an animation
    this is the first frame; an EXIF orientation is not applied.

    Raises:
        ValueError: floating-point or 32-bit pixels, whose white is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels (mode F) have no known range")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit pixels (mode I) have no known range")
        image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def some(names: Collection[str], count: int = 5) -> str:
    """The first few of many names, for messages."""
    shown = ", ".join(list(names)[:count])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > count else shown
