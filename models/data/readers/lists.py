"""The generic tables: csv, and lists of paths with labels, as PACS and DomainNet use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.pictures import is_picture
from fastmmd.models.data.readers.classes import class_of, refuse_alike
from fastmmd.models.data.readers.files import assemble, existing, unlisted
from fastmmd.models.data.readers.tables import Row, columns, each_once, listed_path, read_lines, read_table

UNLABELLED_READER = "pictures without labels are for the reader unlabelled"


def read_csv(
    root: str | Path,
    table: str,
    image_column: str = "image_name",
    label_column: str = "emotion",
    classes: Sequence[str] | None = None,
    encoding: str | None = None,
    skip_absent: bool = False,
) -> ImageDomain:
    """A csv table, with a header, of image paths and class names; comma, semicolon or tab between its cells.

    Args:
        root: folder that the table's paths are relative to.
        table: path of the csv, below the root.
        image_column: name of the column of paths.
        label_column: name of the column of class names.
        classes: the classes in label order; the names in the table, sorted, if not given.
        encoding: the table's, such as "shift_jis"; UTF-8, UTF-16 and Windows-1252 are found without.
        skip_absent: whether to leave out images that are not there; they are an error if not.

    Raises:
        FileNotFoundError, ValueError: no such file, missing columns or images, a row that doesn't fit or is there
            twice, or a class that is not in `classes`; the error says in which line.
    """
    root = existing(root)
    items = table_items(root / table, (image_column, label_column), classes, root, encoding)
    dropped = unlisted(root, [name for name, _ in items], table)
    ordered = classes or sorted({kind for _, kind in items})
    return assemble(root, items, ordered, dropped=dropped, complete=False, skip_absent=skip_absent)


def read_image_list(
    root: str | Path,
    table: str,
    classes: Sequence[str] | None = None,
    label_offset: int = 0,
    encoding: str | None = None,
    skip_absent: bool = False,
) -> ImageDomain:
    """A list of lines `path label`, such as those of Office-31, Office-Home, VisDA-2017, PACS and DomainNet.

    A path may hold blanks ("Real World/..."): the label is what follows the last one.

    Args:
        root: folder that the paths are relative to.
        table: path of the list, below the root.
        classes: class names in the order of the list's labels. If not given, an image's folder names its class.
        label_offset: the list's first label; PACS begins at 1.
        encoding: the list's, such as "shift_jis"; UTF-8, UTF-16 and Windows-1252 are found without.
        skip_absent: whether to leave out images that are not there; they are an error if not.

    Raises:
        FileNotFoundError: no such file, or images that are not there.
        ValueError: labels that do not fit the classes or the offset, a line that doesn't fit or is there twice; the
            error says which.
    """
    root = existing(root)
    lines = _lines(root / table, root, encoding)
    if classes is None:
        classes = _classes_of_folders(lines, root / table, label_offset)
    items = _labelled(lines, classes, label_offset)
    dropped = unlisted(root, [name for name, _ in items], table)
    return assemble(root, items, classes, dropped=dropped, complete=False, skip_absent=skip_absent)


def listed_items(
    path: Path, classes: Sequence[str], root: Path, label_offset: int = 0, encoding: str | None = None
) -> list[tuple[str, str]]:
    """(name, class) of the lines `path label`; a label is a class name, or a number that counts from the offset."""
    return _labelled(_lines(path, root, encoding), classes, label_offset)


def table_items(
    path: Path, names: Sequence[str], classes: Sequence[str] | None, root: Path, encoding: str | None = None
) -> list[tuple[str, str]]:
    """(image name, class) of a csv's rows, from the two columns called `names`."""
    _, header, rows = read_table(path, encoding=encoding)
    image, label = columns(header, names, path)
    _refuse_unlabelled([row for row in rows if not row.cells[label]])
    if not rows:
        raise ValueError(f"{path}: expected rows below the header; found none")
    items = []
    for row in rows:
        kind = row.cells[label] if classes is None else class_of(row.cells[label], classes, row.where)
        items.append((listed_path(row.cells[image], row, root), kind, row))
    refuse_alike((kind for _, kind, _ in items), f"{path}: the labels")
    return each_once(items)


def _labelled(
    lines: Sequence[tuple[str, str, Row]], classes: Sequence[str], label_offset: int
) -> list[tuple[str, str]]:
    items = []
    for name, label, row in lines:
        if not label.isdecimal():
            kind = class_of(label, classes, row.where)
        elif 0 <= int(label) - label_offset < len(classes):
            kind = classes[int(label) - label_offset]
        else:
            first, last = label_offset, label_offset + len(classes) - 1
            raise ValueError(
                f"{row.where}: label {label} of {name} is outside {first} to {last}, the labels of {list(classes)}; "
                "set label_offset if the list does not count from 0"
            )
        items.append((name, kind, row))
    return each_once(items)


def _classes_of_folders(lines: Sequence[tuple[str, str, Row]], path: Path, label_offset: int) -> list[str]:
    """The folder names of a list's images in the order of its labels."""
    folders = defaultdict(set)
    for name, label, _ in lines:
        folders[label].add(PurePosixPath(name).parent.name)
    labels = sorted(folders, key=lambda label: (len(label), label))
    if labels != [str(label_offset + k) for k in range(len(labels))]:
        raise ValueError(
            f"{path}: expected labels that count from {label_offset} without a gap; found {some(labels, 30)}; "
            "set label_offset, or give the classes"
        )
    classes = [folder for label in labels for folder in folders[label]]
    if len(classes) != len(labels) or len(set(classes)) != len(labels) or "" in classes:
        raise ValueError(f"{path}: the images' folders do not name the classes one to one; give the classes")
    return classes


def _lines(path: Path, root: Path, encoding: str | None = None) -> list[tuple[str, str, Row]]:
    """(name, label, line) of the lines of a list."""
    lines = read_lines(path, encoding)
    if not lines:
        raise ValueError(f"{path}: expected lines of a path and a label; found an empty file")
    pairs = [(*line.cells[0].rsplit(maxsplit=1), line) for line in lines]
    without = [pair[-1] for pair in pairs if len(pair) == 2 or is_picture(pair[1])]
    if without and len(without) == len(pairs) and any("," in line.cells[0] for line in without):
        raise ValueError(
            f"{without[0].where}: expected lines of a path and a label; found {without[0].cells[0]!r}; a table with "
            "commas is for the reader csv"
        )
    _refuse_unlabelled(without)
    return [(listed_path(pair[0], pair[-1], root), pair[1], pair[-1]) for pair in pairs]


def _refuse_unlabelled(rows: Sequence[Row]) -> None:
    if rows:
        first = rows[0].cells[0] if len(rows[0].cells) == 1 else rows[0].cells
        raise ValueError(
            f"{rows[0].path}: expected lines of a path and a label; found {first!r} and {len(rows)} lines without a "
            f"label in all: {some([str(row.line) for row in rows], 10)}; {UNLABELLED_READER}"
        )
