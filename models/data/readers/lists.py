"""The generic layouts: folders a class, csv tables, and lists of paths with labels, as PACS and DomainNet use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.classes import class_of
from fastmmd.models.data.readers.files import (
    assemble,
    columns,
    existing,
    folder_items,
    not_found,
    read_lines,
    read_table,
)


def read_image_folder(root: str | Path, classes: Sequence[str] | None = None) -> ImageDomain:
    """`<class>/*`, with images at any depth below.

    Args:
        root: folder of the class folders.
        classes: the classes in label order; the names of the folders that hold images, sorted, if not given.

    Raises:
        FileNotFoundError, ValueError: no such folder, no images, or folders that do not fit `classes`.
    """
    root = existing(root)
    items = folder_items(root, "", classes)
    if not items:
        raise not_found("<class>/*.jpg", root)
    return assemble(root, items, classes or sorted({kind for _, kind in items}), complete=False)


def read_csv(
    root: str | Path,
    table: str,
    image_column: str = "image_name",
    label_column: str = "emotion",
    classes: Sequence[str] | None = None,
) -> ImageDomain:
    """A csv table, with a header, of image paths and class names; comma, semicolon or tab between its cells.

    Args:
        root: folder that the table's paths are relative to.
        table: path of the csv, below the root.
        image_column: name of the column of paths.
        label_column: name of the column of class names.
        classes: the classes in label order; the names in the table, sorted, if not given.

    Raises:
        FileNotFoundError, ValueError: no such file, missing columns or images, or a class that is not in `classes`.
    """
    root = existing(root)
    items = table_items(root / table, (image_column, label_column), classes)
    return assemble(root, items, classes or sorted({kind for _, kind in items}), complete=False)


def read_image_list(
    root: str | Path, table: str, classes: Sequence[str] | None = None, label_offset: int = 0
) -> ImageDomain:
    """A list of lines `path label`, such as those of Office-31, Office-Home, VisDA-2017, PACS and DomainNet.

    A path may hold blanks ("Real World/..."): the label is what follows the last one.

    Args:
        root: folder that the paths are relative to.
        table: path of the list, below the root.
        classes: class names in the order of the list's labels. If not given, an image's folder names its class.
        label_offset: the list's first label; PACS begins at 1.

    Raises:
        FileNotFoundError: no such file, or images that are not there.
        ValueError: labels that do not fit the classes or the offset.
    """
    root = existing(root)
    if classes is None:
        classes = _classes_of_folders(root / table, label_offset)
    items = listed_items(root / table, classes, label_offset)
    return assemble(root, items, classes, complete=False)


def listed_items(path: Path, classes: Sequence[str], label_offset: int = 0) -> list[tuple[str, str]]:
    """(name, class) of the lines `path label`; a label is a class name, or a number that counts from the offset."""
    items = []
    for name, label in _lines(path):
        if not label.isdecimal():
            items.append((name, class_of(label, classes, str(path))))
        elif 0 <= int(label) - label_offset < len(classes):
            items.append((name, classes[int(label) - label_offset]))
        else:
            first, last = label_offset, label_offset + len(classes) - 1
            raise ValueError(
                f"{path}: label {label} of {name} is outside {first} to {last}, the labels of {list(classes)}; "
                "set label_offset if the list does not count from 0"
            )
    return items


def table_items(path: Path, names: Sequence[str], classes: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """(image name, class) of a csv's rows, from the two columns called `names`."""
    if not path.is_file():
        raise not_found(path.name, path.parent)
    header, *rows = read_table(path)
    image, label = columns(header, names, path)
    kind = {row[label]: class_of(row[label], classes, str(path)) if classes else row[label] for row in rows}
    return [(row[image], kind[row[label]]) for row in rows]


def _classes_of_folders(path: Path, label_offset: int) -> list[str]:
    """The folder names of a list's images in the order of its labels."""
    folders = defaultdict(set)
    for name, label in _lines(path):
        folders[label].add(PurePosixPath(name).parent.name)
    labels = sorted(folders, key=lambda label: (len(label), label))
    if labels != [str(label_offset + k) for k in range(len(labels))]:
        raise ValueError(
            f"{path}: expected labels that count from {label_offset} without a gap; found {', '.join(labels)}; "
            "set label_offset, or give the classes"
        )
    classes = [folder for label in labels for folder in folders[label]]
    if len(classes) != len(labels) or len(set(classes)) != len(labels) or "" in classes:
        raise ValueError(f"{path}: the images' folders do not name the classes one to one; give the classes")
    return classes


def _lines(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise not_found(path.name, path.parent)
    pairs = [line.rsplit(maxsplit=1) for line in read_lines(path)]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ValueError(f"{path}: expected lines of a path and a label; found {wrong[0][0]!r}")
    return [(name, label) for name, label in pairs]
