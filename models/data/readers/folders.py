"""Class folders, their parts and what may lie above them; and folders without labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from fastmmd.models.data.domain import PARTS, ImageDomain, some
from fastmmd.models.data.readers.classes import class_of, match_class, refuse_alike
from fastmmd.models.data.readers.files import Listing, assemble, existing, list_folder, not_found, unlisted
from fastmmd.models.data.readers.tables import columns, each_once, listed_path, read_lines, read_table

# Names of folders that are parts of a data set, in any case.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Part = Literal["all", "train", "val", "test"]

BESIDE = "beside the class folders"
NOT_ASKED = "not in the part that is asked for"
GIVE_CLASSES = "give the reader's option classes (options: {classes: [...]})"
SORT_OR_UNLABELLED = (
    "sort the pictures into a folder for each class; or, for a target without labels, use the reader unlabelled "
    "(--data.target.reader=unlabelled)"
)


class ClassFolders(NamedTuple):
    """The pictures that lie in class folders.

    Args:
        base: the folder that the names are relative to: that of the class folders, or of the parts.
        items: (name, class) of the pictures, None for the class of a part without class folders.
        parts: each picture's part, or None where there are none or all are read as one.
        classes: those given, else the folders' names, sorted.
        dropped: reason -> names of all else.
    """

    base: Path
    items: list[tuple[str, str | None]]
    parts: list[str] | None
    classes: list[str]
    dropped: dict[str, list[str]]

    def domain(self, complete: bool = False) -> ImageDomain:
        """The domain of these pictures; `complete`: whether every class must have some."""
        return assemble(self.base, self.items, self.classes, dropped=self.dropped, complete=complete, parts=self.parts)


def read_image_folder(root: str | Path, classes: Sequence[str] | None = None, part: Part | None = None) -> ImageDomain:
    """`<class>/*`, with pictures at any depth below; or `<part>/<class>/*`.

    Folders that are all called as parts are (train or training; val, valid, validation or dev; test or testing; in any
    case) are the data set's own division and no classes. Folders above that hold nothing but one folder with pictures,
    such as `amazon/images/`, are passed through. A part without class folders beside one with them has no labels.

    Args:
        root: folder of the class folders or parts.
        classes: the classes in label order; the names of the class folders, sorted, if not given.
        part: "train", "val" or "test" reads this part alone, "all" all as one set; None all, each picture with its
            part in `ImageDomain.parts`.

    Raises:
        FileNotFoundError, ValueError: a layout that leaves open what the classes are; the error says what was found
            and what to do.
    """
    return class_folders(existing(root), classes, part).domain()


def read_unlabelled(
    root: str | Path, table: str | None = None, image_column: str = "image_name", encoding: str | None = None
) -> ImageDomain:
    """Pictures without labels, the target of unsupervised transfer: the domain has no classes.

    Args:
        root: a folder; the names of the folders below it mean nothing.
        table: path of a list of the pictures, below the root, if not all are meant: a csv with a header, or a txt with
            a path in each line. A number behind a blank at a line's end is a label, and passed over, if the path is
            that of a picture without it only.
        image_column: the csv's column of paths.
        encoding: the table's, where it isn't found by itself.

    Raises:
        FileNotFoundError, ValueError: no pictures, or a table that doesn't fit.
    """
    root = existing(root)
    if table is None:
        listing = list_folder(root)
        if not listing.pictures:
            raise _no_pictures("pictures", root, listing)
        return assemble(
            root, [(name, None) for name in listing.pictures], (), dropped=listing.dropped(listing.pictures)
        )
    if table.lower().endswith((".csv", ".tsv")):
        header, rows = read_table(root / table, encoding=encoding)[1:]
        (place,) = columns(header, [image_column], root / table)
        listed = [(listed_path(row.cells[place], row, root), None, row) for row in rows]
    else:
        listed = []
        for row in read_lines(root / table, encoding):
            name = listed_path(row.cells[0], row, root)
            path, _, label = name.rpartition(" ")
            without = not (root / name).is_file() and label.lstrip("-").isdecimal() and (root / path.rstrip()).is_file()
            listed.append((path.rstrip() if without else name, None, row))
    items = each_once(listed)
    return assemble(root, items, (), dropped=unlisted(root, [name for name, _ in items], table))


def class_folders(
    root: Path,
    classes: Sequence[str] | None = None,
    part: Part | None = None,
    split: bool = True,
    least: int = 2,
) -> ClassFolders:
    """The pictures of class folders below a folder, as `read_image_folder` says.

    Args:
        root, classes, part: as there.
        split: whether there may be parts.
        least: how many class folders are a data set, if `classes` aren't given.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    if part not in (None, "all", *PARTS):
        raise ValueError(f"part: expected all, {', '.join(PARTS)} or none, got {part!r}")
    whole = list_folder(root)
    if not whole.pictures:
        raise _no_pictures("<class>/*.jpg", root, whole)
    start, level = _descend(whole, classes, split)
    base = root / start
    divided = _parts(base, level, classes) if split else {}
    if divided:
        items, parts, names = _divided(base, level, divided, classes, part, least)
    elif part not in (None, "all"):
        raise not_found(f"{part}/", base)
    else:
        items, names = _of_classes(base, level, classes, least)
        parts = None
    # What is said of a file is relative to the base, as are the names of pictures.
    prefix = f"{start}/" if start else ""
    used = {prefix + name for name, _ in items}
    dropped: dict[str, list[str]] = {}
    for reason, left_out in whole.dropped(used, BESIDE).items():
        for name in left_out:
            if name.startswith(prefix):
                below = name.removeprefix(prefix)
                in_part = divided.get(below.split("/")[0])
                asked = in_part is None or part in (None, "all", in_part)
                dropped.setdefault(reason if asked else NOT_ASKED, []).append(below)
            else:
                dropped.setdefault(reason, []).append("../" * len(PurePosixPath(start).parts) + name)
    ordered = sorted(set(names)) if classes is None else list(classes)
    return ClassFolders(base, items, parts if part is None else None, ordered, dropped)


def _no_pictures(expected: str, root: Path, listing: Listing) -> FileNotFoundError:
    error = not_found(expected, root)
    if not listing.closed:
        return error
    told = [f"{name}: {why}" for name, why in listing.closed.items()]
    return FileNotFoundError(f"{error}; {len(told)} pictures can't be read: {some(told)}")


def _with_pictures(listing: Listing) -> set[str]:
    """The folders of the top level that have pictures at any depth, be it such as can't be opened."""
    return _tops(listing.pictures) | _tops(listing.closed)


def _tops(names: Iterable[str]) -> set[str]:
    return {name.split("/", 1)[0] for name in names if "/" in name}


def _candidates(listing: Listing) -> list[str]:
    """The folders of the top level that may be classes: those with pictures, and empty ones."""
    full, others = _with_pictures(listing), _tops(listing.others)
    return [name for name in listing.children() if name in full or name not in others]


def _has_class_folders(listing: Listing, folder: str) -> bool:
    return bool(_with_pictures(listing.below(folder)))


def _wrapper(listing: Listing, classes: Sequence[str] | None) -> str | None:
    """The one folder that the class folders lie in, if there is such a level."""
    found = _candidates(listing)
    if (
        len(found) != 1
        or any("/" not in name for name in listing.pictures)
        or (classes is not None and match_class(found[0], classes) is not None)
        or not _has_class_folders(listing, found[0])
    ):
        return None
    return found[0]


def _descend(listing: Listing, classes: Sequence[str] | None, split: bool) -> tuple[str, Listing]:
    """The path of the folder that holds the class folders (or parts), and what lies below it."""
    path: list[str] = []
    while (folder := _wrapper(listing, classes)) is not None and not (split and folder.lower() in PART_NAMES):
        path.append(folder)
        listing = listing.below(folder)
    return "/".join(path), listing


def _parts(base: Path, listing: Listing, classes: Sequence[str] | None) -> dict[str, str]:
    """Folder -> part, where the folders of this level are parts.

    Raises:
        ValueError: it can't be told whether they are parts or classes.
    """
    found = _candidates(listing)
    if classes is not None and any(match_class(name, classes) is not None for name in found):
        return {}
    parts = {name: PART_NAMES[name.lower()] for name in found if name.lower() in PART_NAMES}
    if not parts:
        return {}
    if len(parts) < len(found):
        if len(parts) == 1:
            return {}
        rest = [name for name in found if name not in parts]
        raise ValueError(
            f"{base}: {', '.join(parts)} are called as the parts of a data set, {some(rest)} beside them are not; if "
            f"all of them are classes, {GIVE_CLASSES}; if not, give the root of the parts, or move the others elsewhere"
        )
    if not any(_has_class_folders(listing, name) for name in parts):
        if len(parts) == 1:
            return {}  # a single class folder, which is refused as such
        raise ValueError(
            f"{base}: {', '.join(parts)} are parts of a data set, and none of them holds class folders; "
            f"{SORT_OR_UNLABELLED}; if they are classes, {GIVE_CLASSES}"
        )
    of: dict[str, list[str]] = defaultdict(list)
    for name, part in parts.items():
        of[part].append(name)
    for part, names in of.items():
        if len(names) > 1:
            raise ValueError(f"{base}: {' and '.join(names)} are both called as the part {part}; keep one of them")
    return parts


def _divided(
    base: Path,
    listing: Listing,
    divided: Mapping[str, str],
    classes: Sequence[str] | None,
    part: Part | None,
    least: int,
) -> tuple[list[tuple[str, str | None]], list[str], list[str]]:
    """Items of the parts, the part of each, and all classes: those of parts that aren't asked for, too."""
    if part in PARTS and part not in divided.values():
        raise not_found(f"{part}/", base)
    found: dict[str, list[tuple[str, str | None]]] = {}
    levels: dict[str, tuple[str, Listing]] = {}
    for folder in sorted(divided):
        below = listing.below(folder)
        if _has_class_folders(listing, folder):
            levels[folder] = f"{folder}/", below
        else:
            found[folder] = [(f"{folder}/{name}", None) for name in below.pictures]
    # A single folder of one part may be a class of which the others have more; of all parts, it is no class.
    while levels and all(_wrapper(level, classes) is not None for _, level in levels.values()):
        for folder, (prefix, level) in levels.items():
            wrapper = str(_wrapper(level, classes))
            levels[folder] = f"{prefix}{wrapper}/", level.below(wrapper)
    empty: dict[str, list[str]] = {}
    all_names: dict[str, None] = {}
    for folder, (prefix, level) in levels.items():
        if classes is None:
            _refuse_nested(base / prefix, level)
        items, names, empty[folder] = _folders_of(base / prefix, level, classes)
        found[folder] = [(prefix + name, kind) for name, kind in items]
        all_names.update(dict.fromkeys(names))
    labelled = {kind for items in found.values() for _, kind in items if kind is not None}
    for folder, names in empty.items():
        _refuse_empty(base / folder, [name for name in names if name not in labelled], classes, levels[folder][1])
    refuse_alike(all_names, f"{base}: the class folders")
    _refuse_few(base, sorted(labelled), classes, least)
    order = {folder: PARTS.index(name) for folder, name in divided.items()}
    asked = [folder for folder in sorted(found, key=order.__getitem__) if part in (None, "all", divided[folder])]
    items = [item for folder in asked for item in found[folder]]
    parts = [divided[folder] for folder in asked for _ in found[folder]]
    return items, parts, list(labelled)


def _of_classes(
    base: Path, listing: Listing, classes: Sequence[str] | None, least: int
) -> tuple[list[tuple[str, str | None]], list[str]]:
    items, names, empty = _folders_of(base, listing, classes)
    if not items and any("/" not in name for name in listing.pictures):
        raise ValueError(
            f"{base}: expected class folders, <class>/*.jpg; found {len(listing.pictures)} pictures and no folders of "
            f"pictures; {SORT_OR_UNLABELLED}"
        )
    if classes is None:
        _refuse_nested(base, listing)
    _refuse_empty(base, empty, classes, listing)
    refuse_alike(names, f"{base}: the class folders")
    _refuse_few(base, names, classes, least)
    return items, names


def _folders_of(
    base: Path, listing: Listing, classes: Sequence[str] | None
) -> tuple[list[tuple[str, str | None]], list[str], list[str]]:
    """Items of the class folders, the classes of these, and of the folders without a picture that can be read."""
    full_folders = _with_pictures(listing)
    kinds = {}
    for name in _candidates(listing):
        if classes is not None and name not in full_folders and match_class(name, classes) is None:
            continue  # an empty folder beside those of the classes
        kinds[name] = name if classes is None else class_of(name, classes, f"class folder in {base}")
    items = [(name, kinds[name.split("/")[0]]) for name in listing.pictures if "/" in name]
    full = {kind for _, kind in items}
    return items, sorted(full), sorted({kind for kind in kinds.values() if kind not in full})


def _refuse_empty(base: Path, empty: Sequence[str], classes: Sequence[str] | None, listing: Listing) -> None:
    if empty and classes is None:
        closed = [f"{name}: {why}" for name, why in listing.closed.items() if name.split("/")[0] in empty]
        raise ValueError(
            f"{base}: no pictures that can be read in the folders {some(empty)}"
            + (f" ({some(closed, 3)})" if closed else "")
            + f"; delete them if they are no classes; if they are, {GIVE_CLASSES} with them among the names"
        )


def _refuse_nested(base: Path, listing: Listing) -> None:
    """Makes sure that the class folders aren't domains or classes one level above those that are meant."""
    names = [name.split("/") for name in (*listing.pictures, *listing.closed) if "/" in name]
    inside: dict[str, set[str]] = defaultdict(set)
    for folder, *rest in names:
        inside[folder].add(rest[0] if len(rest) > 1 else "")
    common = set.intersection(*inside.values()) if inside else set()
    if len(inside) > 1 and len(common) > 1 and not any("" in found for found in inside.values()):
        raise ValueError(
            f"{base}: the folders {some(sorted(inside))} all hold the same folders, {some(sorted(common))}; if these "
            f"are the classes, give one of the former as root; if the former are the classes, {GIVE_CLASSES}"
        )


def _refuse_few(base: Path, names: Sequence[str], classes: Sequence[str] | None, least: int) -> None:
    if classes is None and len(names) < least:
        raise ValueError(
            f"{base}: expected at least {least} class folders with pictures; found {len(names)}: {some(names)}; "
            f"{SORT_OR_UNLABELLED}"
        )
