"""Emotion6 (Peng et al., CVPR 2015) and EmotionROI (Peng et al., ICIP 2016): Ekman's six emotions, 330 images each.

The layouts are those of the authors' archives, as public loading code reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers.classes import EKMAN
from fastmmd.models.data.readers.files import assemble, find_file, home, not_found
from fastmmd.models.data.readers.folders import ClassFolders, class_folders
from fastmmd.models.data.readers.tables import each_once, listed_path, number, read_lines, read_table

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
    root = home(root, "images")
    found = _pictures(root)
    return _with_shares(root, found, found.items)


def read_emotion_roi(root: str | Path, part: Literal["all", "train", "test"] | None = "all") -> ImageDomain:
    """EmotionROI: as Emotion6, with the parts listed in `training.txt` and `testing.txt` (lines `<class>/name.jpg`).

    Args:
        root: folder of the data set; its tables may lie in subfolders.
        part: which images; None those of both lists, each with its part in `ImageDomain.parts`.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, "images")
    found = _pictures(root)
    kinds = dict(found.items)
    listed: dict[str, list[str]] = {}
    for name, table in (("train", "training.txt"), ("test", "testing.txt")):
        if part in (None, name):
            rows = read_lines(find_file(root, table))
            listed[name] = [
                name for name, _ in each_once((listed_path(row.cells[0], row, found.base), "", row) for row in rows)
            ]
    if part == "all":
        return _with_shares(root, found, found.items)
    names = [name for part in listed.values() for name in part]
    if stray := [name for name in names if name not in kinds and (found.base / name).is_file()]:
        raise ValueError(f"{found.base}: expected <class>/name.jpg in the lists; found {some(stray)}")
    items = [(name, kinds.get(name)) for name in names]
    parts = [name for name, names in listed.items() for _ in names]
    return _with_shares(root, found, items, parts if part is None else None)


def _pictures(root: Path) -> ClassFolders:
    if not (root / "images").is_dir():
        raise not_found("images/", root)
    return class_folders(root / "images", EKMAN, split=False)


def _with_shares(
    root: Path, found: ClassFolders, items: list[tuple[str, str | None]], parts: list[str] | None = None
) -> ImageDomain:
    domain = assemble(found.base, items, EKMAN)
    path = find_file(root, "ground_truth.txt")
    table = read_table(path, "\t")
    # Headers differ in brackets and words ("prob. anger", "[prob. of anger]"); the emotion is in all of them.
    titles = [title.casefold() for title in table.header]
    places = [[place for place, title in enumerate(titles) if place and share in title] for share in SHARES]
    if any(len(alike) != 1 for alike in places):
        raise ValueError(f"{path}: expected a column for each of {list(SHARES)}; found {table.header}")
    names = [listed_path(row.cells[0], row, found.base) for row in table.rows]
    each_once(zip(names, names, table.rows, strict=True))
    shares = {
        name: [number(row.cells[place], row.where) for (place,) in places]
        for name, row in zip(names, table.rows, strict=True)
    }
    absent = [name for name in domain.names if name not in shares]
    if absent:
        raise ValueError(f"{path}: {len(absent)} images have no row, such as {absent[0]}")
    used = set(domain.names)
    dropped = {reason: list(left_out) for reason, left_out in found.dropped.items()}
    if unused := [name for name, _ in found.items if name not in used]:
        dropped["not in the part that is asked for"] = unused
    votes = [shares[name] for name in domain.names]
    return assemble(found.base, items, EKMAN, votes, SHARES, dropped, parts=parts)
