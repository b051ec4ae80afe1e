"""WEBEmo, stock photographs in a hierarchy of emotions (Panda et al., ECCV 2018, "Contemplating Visual Emotions").

The layout is that of the authors' lists, `train25.txt`, `test25.txt` and `category.txt`. They hold addresses and no
pictures, so where these lie is the choice of whoever downloaded them.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers.classes import SENTIMENT
from fastmmd.models.data.readers.files import ABSENT, assemble, existing, files_named, find_file, list_folder, not_found
from fastmmd.models.data.readers.folders import class_folders
from fastmmd.models.data.readers.tables import read_lines

# As `category.txt` spells them, in the order of the lists' numbers: the class of each level, 25, 6 and 2.
HIERARCHY = {
    "affection": ("love", "positive"),
    "cheerfullness": ("joy", "positive"),
    "confusion": ("confusion", "negative"),
    "contentment": ("joy", "positive"),
    "disappointment": ("sadness", "negative"),
    "disgust": ("anger", "negative"),
    "enthrallment": ("joy", "positive"),
    "envy": ("anger", "negative"),
    "exasperation": ("anger", "negative"),
    "gratitude": ("love", "positive"),
    "horror": ("fear", "negative"),
    "irritabilty": ("anger", "negative"),
    "lust": ("love", "positive"),
    "neglect": ("sadness", "negative"),
    "nervousness": ("fear", "negative"),
    "optimism": ("joy", "positive"),
    "pride": ("joy", "positive"),
    "rage": ("anger", "negative"),
    "relief": ("joy", "positive"),
    "sadness": ("sadness", "negative"),
    "shame": ("sadness", "negative"),
    "suffering": ("sadness", "negative"),
    "surprise": ("surprise", "positive"),
    "sympathy": ("sadness", "negative"),
    "zest": ("joy", "positive"),
}
FINE = tuple(HIERARCHY)
CLASSES = {25: FINE, 6: ("anger", "fear", "joy", "love", "sadness", "surprise"), 2: SENTIMENT}
LISTS = {"train": "train25.txt", "test": "test25.txt"}
NONE_OF_SIX = "confusion, which is none of the six emotions"
CONFLICT = "listed under several classes"
BOTH = "listed in both parts"


def read_webemo(
    root: str | Path, levels: Literal[25, 6, 2] = 25, part: Literal["all", "train", "test"] | None = "all"
) -> ImageDomain:
    """WEBEmo: lists of lines `address number`, 213,952 to train and 53,489 to test, and pictures that were downloaded.

    A line's picture is the file with the last part of the address as its name, anywhere below the root, or with the
    number and "_" before it. Pictures vanish from the service, so lines without one are usual: they are warned about
    and noted as absent. A file that is listed under several classes, or in both parts, is left out with a note.
    Without lists, `<part>/<class>/*` with the 25 names is read.

    The paper and the authors' description have six emotions in the middle level; their `category.txt` has confusion as
    a seventh there, and its images are left out of the six.

    Args:
        root: folder of lists and pictures; the lists may lie in subfolders.
        levels: 25 emotions, the 6 above them, or negative and positive.
        part: which list; None both, each image with its part in `ImageDomain.parts`.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    if levels not in CLASSES:
        raise ValueError(f"levels: expected one of {sorted(CLASSES)}, got {levels!r}")
    if not any(files_named(root, name) for name in LISTS.values()):
        found = class_folders(root, FINE, part)
        return _at_level(found.base, found.items, found.parts, found.dropped, levels)
    listing = list_folder(root)
    files = defaultdict(list)
    for name in listing.pictures:
        files[PurePosixPath(name).name].append(name)
    listed: dict[str, list[tuple[str, str]]] = defaultdict(list)
    absent: list[str] = []
    lists = {name: table for name, table in LISTS.items() if part in (None, "all", name)}
    for name, table in lists.items():
        for row in read_lines(find_file(root, table)):
            address, _, label = row.cells[0].rpartition(" ")
            if not (address and label.isdecimal() and int(label) < len(FINE)):
                raise ValueError(
                    f"{row.where}: expected an address and a number from 0 to {len(FINE) - 1}; found {row.cells[0]!r}"
                )
            file = PurePosixPath(urlsplit(address.strip()).path).name
            there = [*files[file], *files[f"{label}_{file}"]]
            if len(there) > 1:  # an image of several classes or parts, saved in the folder of each
                fits = {label, FINE[int(label)], name}
                count = [len(fits & set(PurePosixPath(path).parts[:-1])) for path in there]
                there = [path for path, fitting in zip(there, count, strict=True) if fitting == max(count)]
            if len(there) > 1:
                raise ValueError(f"{row.where}: which file is meant is unknown: {some(there)}")
            if there:
                listed[there[0]].append((FINE[int(label)], name))
            else:
                absent.append(f"{label}/{file}")
    if not listed:
        raise not_found(f"pictures that {' or '.join(lists.values())} name, such as {some(absent, 2)},", root)
    if absent:
        total = len(absent) + sum(map(len, listed.values()))
        warnings.warn(f"{root}: {len(absent)} of {total} listed images are not there: {some(absent)}", stacklevel=2)
    dropped = listing.dropped(listed, f"not in {', '.join(lists.values())}", others=False)
    once: dict[str, tuple[str, str]] = {}
    for file, lines in listed.items():
        kinds, parts = {kind for kind, _ in lines}, {name for _, name in lines}
        if len(kinds) > 1 or len(parts) > 1:
            dropped.setdefault(CONFLICT if len(kinds) > 1 else BOTH, []).append(file)
        else:
            once[file] = lines[0]
    if absent:
        dropped[ABSENT] = absent
    items = [(file, kind) for file, (kind, _) in once.items()]
    return _at_level(root, items, [name for _, name in once.values()] if part is None else None, dropped, levels)


def _at_level(
    base: Path,
    items: Sequence[tuple[str, str | None]],
    parts: Sequence[str] | None,
    dropped: dict[str, list[str]],
    levels: int,
) -> ImageDomain:
    """The domain of images with one of the 25 classes, or none, at a level of the hierarchy."""
    classes = CLASSES[levels]

    def above(kind: str | None) -> str | None:
        return kind if kind is None or levels == 25 else HIERARCHY[kind][levels == 2]

    kept = [place for place, (_, kind) in enumerate(items) if kind is None or above(kind) in classes]
    if len(kept) < len(items):
        keep = set(kept)
        dropped[NONE_OF_SIX] = [name for place, (name, _) in enumerate(items) if place not in keep]
    return assemble(
        base,
        [(items[place][0], above(items[place][1])) for place in kept],
        classes,
        dropped=dropped,
        complete=False,
        parts=None if parts is None else [parts[place] for place in kept],
    )
