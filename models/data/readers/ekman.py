"""Emotion6 (Peng et al., CVPR 2015) and EmotionROI (Peng et al., ICIP 2016): Ekman's six emotions, 330 images each.

The layouts are those of the authors' archives, as public loading code reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.classes import EKMAN
from fastmmd.models.data.readers.files import (
    assemble,
    existing,
    find_file,
    folder_items,
    number,
    read_lines,
    read_table,
)

# The neutral share has no folder of its own.
SHARES = (*EKMAN, "neutral")


def read_emotion6(root: str | Path) -> ImageDomain:
    """Emotion6: `images/<class>/N.jpg`, where the class is the word that the image was found with.

    `ground_truth.txt`, tab-separated with a header, has a row an image: its name below `images/`, valence, arousal, and
    the shares of seven answers, neutral the last. The shares are the domain's votes; the most voted answer is often
    not the folder's class.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    return _with_shares(root, folder_items(root / "images", "", EKMAN))


def read_emotion_roi(root: str | Path, part: Literal["all", "train", "test"] = "all") -> ImageDomain:
    """EmotionROI: as Emotion6, with the parts listed in `training.txt` and `testing.txt` (lines `<class>/name.jpg`).

    Args:
        root: folder of the data set; its tables may lie in subfolders.
        part: which images.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    items = folder_items(root / "images", "", EKMAN)
    if part != "all":
        kinds = dict(items)
        names = read_lines(find_file(root, "training.txt" if part == "train" else "testing.txt"))
        items = [(name, kinds.get(name, "")) for name in names]
    return _with_shares(root, items)


def _with_shares(root: Path, items: list[tuple[str, str]]) -> ImageDomain:
    domain = assemble(root / "images", items, EKMAN)
    path = find_file(root, "ground_truth.txt")
    (_, *header), *rows = read_table(path, "\t")
    # Headers differ in brackets and words ("prob. anger", "[prob. of anger]"); the emotion is in all of them.
    places = [[place for place, title in enumerate(header) if share in title.casefold()] for share in SHARES]
    if any(len(found) != 1 for found in places):
        raise ValueError(f"{path}: expected a column for each of {list(SHARES)}; found {header}")
    shares = {name: [number(cells[place], path) for (place,) in places] for name, *cells in rows}
    absent = [name for name in domain.names if name not in shares]
    if absent:
        raise ValueError(f"{path}: {len(absent)} images have no row, such as {absent[0]}")
    return assemble(root / "images", items, EKMAN, [shares[name] for name in domain.names], SHARES)
