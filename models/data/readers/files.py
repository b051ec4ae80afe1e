"""What all readers share: looking for folders, images and tables, and errors that say what was found instead."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers.classes import class_of

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")


def existing(root: str | Path) -> Path:
    """`root`, which must be a folder.

    Raises:
        FileNotFoundError: it is none.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {root}; data sets are read from disk and never downloaded")
    return Path(root)


def inner(root: Path, *names: str) -> Path:
    """The first of these subfolders that exists, else `root`: archives are unpacked with and without them."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def files_named(root: Path, name: str) -> list[Path]:
    """The files of this name (or glob pattern) in `root`, else in its subfolders."""
    return sorted(root.glob(name)) or sorted(root.glob(f"*/{name}"))


def find_file(root: Path, name: str) -> Path:
    """The first of `files_named`.

    Raises:
        FileNotFoundError: there is none.
    """
    found = files_named(root, name)
    if not found:
        raise not_found(name, root)
    return found[0]


def not_found(expected: str, folder: Path) -> FileNotFoundError:
    """The error that a layout does not fit: what was expected, and what the folder has."""
    content = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else []
    return FileNotFoundError(f"expected {expected} in {folder}; found {some(content, 12) or 'nothing'}")


def hidden(name: PurePosixPath) -> bool:
    """Whether it is what operating systems leave behind: `.DS_Store`, `._picture.jpg`, `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def is_image(name: str) -> bool:
    """Whether it has an image's extension, in any case."""
    return name.lower().endswith(EXTENSIONS)


def stem(name: str) -> str:
    """A file's name without folders and image extension, lower-case: `2055.1` and `A/2055.1.JPG` are the same."""
    base = PurePosixPath(name).name.lower()
    return base.removesuffix(PurePosixPath(base).suffix) if is_image(base) else base


def images(folder: Path, pattern: str = "**/*") -> list[str]:
    """Names of the images below a folder, relative to it, in ascending order on every file system."""
    found = [path for path in folder.glob(pattern) if is_image(path.name) and path.is_file()]
    names = [PurePosixPath(path.relative_to(folder).as_posix()) for path in found]
    return sorted(str(name) for name in names if not hidden(name))


def by_stem(names: Iterable[str]) -> dict[str, str]:
    """Stem -> name, to find images that tables name without or with another extension.

    Raises:
        ValueError: two images have the same stem.
    """
    found: dict[str, str] = {}
    for name in names:
        if stem(name) in found:
            raise ValueError(f"{found[stem(name)]} and {name} have the same name; which one is meant is unknown")
        found[stem(name)] = name
    return found


def folder_items(root: Path, folder: str, classes: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """(name relative to `root`, class) of the images in `root/folder/<class>/`.

    Args:
        classes: the classes; those that the folders name if not given.

    Raises:
        ValueError: images in a folder that names no class.
    """
    items = []
    base = root / folder
    for name in images(base, "*/**/*"):
        kind = name.split("/")[0]
        kind = kind if classes is None else class_of(kind, classes, f"class folder in {base}")
        items.append((name if folder in ("", ".") else f"{folder}/{name}", kind))
    return items


def assemble(
    root: Path,
    items: Sequence[tuple[str, str]],
    classes: Sequence[str],
    votes: Sequence[Sequence[float]] | None = None,
    vote_names: Sequence[str] = (),
    dropped: Mapping[str, Sequence[str]] | None = None,
    complete: bool = True,
) -> ImageDomain:
    """The domain of (name, class) pairs, after a look at whether all is there.

    Args:
        complete: whether every class must have images.

    Raises:
        FileNotFoundError: images that are listed but absent.
        ValueError: a class without images.
    """
    absent = [name for name, _ in items if not (root / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{len(absent)} of {len(items)} listed images are not in {root}: {some(absent)}")
    counts = Counter(kind for _, kind in items)
    empty = [name for name in classes if name not in counts]
    if empty and complete:
        raise ValueError(f"no images of {some(empty)} in {root}; found {dict(counts) or 'no images at all'}")
    names = [name for name, _ in items]
    label = {name: index for index, name in enumerate(classes)}
    targets = [label[kind] for _, kind in items]
    return ImageDomain(
        root,
        names,
        targets,
        classes,
        None if votes is None else np.array(votes, dtype=np.float64).reshape(len(names), len(vote_names)),
        vote_names,
        dropped,
    )


def read_table(path: Path, delimiter: str | None = None) -> list[list[str]]:
    """Rows of a table of text, the header if any among them, without empty rows.

    Cells lose blanks and quotes of either kind; line ends may be Unix's or Windows', a byte-order mark may come first.

    Args:
        delimiter: between cells; if not given, the comma, semicolon or tab that the first line has most of.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = list(csv.reader(file, delimiter=delimiter or max(",;\t", key=first.count)))
    cells = [[cell.strip().strip("'\"").strip() for cell in row] for row in rows]
    return [row for row in cells if any(row)]


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, stripped."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def columns(header: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Places of the columns of these names, whatever their case.

    Raises:
        ValueError: one is missing.
    """
    places = {name.casefold(): place for place, name in reversed(list(enumerate(header)))}
    absent = [name for name in wanted if name.casefold() not in places]
    if absent:
        raise ValueError(f"{path}: expected the columns {list(wanted)}; found {list(header)}")
    return [places[name.casefold()] for name in wanted]


def number(cell: str, path: Path) -> float:
    """The number in a table's cell.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{path}: expected a number; found {cell!r}") from None
