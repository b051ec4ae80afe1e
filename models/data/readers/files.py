"""What all readers share: the one listing of a folder's files, and errors that say what was found instead."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fastmmd.models.data.domain import UNLABELLED, ImageDomain, some
from fastmmd.models.data.pictures import is_picture, obstacle
from fastmmd.models.data.readers.classes import plain

# What operating systems and tools leave behind, lower-case; hidden names (".DS_Store", "._a.jpg") are junk too.
JUNK = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "#recycle", "lost+found", "icon\r"),
}
NO_PICTURES = "no pictures"
BROKEN_LINK = "a link to nothing"
LOOP = "a link to a folder that it lies in"
NOT_UTF8 = "a name that is not UTF-8: rename it"
ABSENT = "absent"


@dataclass(frozen=True)
class Listing:
    """What lies below a folder, without junk; names are relative to it, with "/", ascending.

    Args:
        pictures: files that are read as pictures.
        closed: name -> why it isn't read, of pictures that can't be opened here, of broken links and of names that
            can't be written down.
        others: all other files.
        folders: all folders, empty ones too.
    """

    pictures: tuple[str, ...]
    closed: Mapping[str, str]
    others: tuple[str, ...]
    folders: tuple[str, ...]

    def children(self) -> list[str]:
        """The folders of the top level."""
        return [name for name in self.folders if "/" not in name]

    def below(self, folder: str) -> Listing:
        """What lies below one of the folders, relative to it."""
        start = f"{folder}/"

        def inside(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name.removeprefix(start) for name in names if name.startswith(start))

        closed = {name.removeprefix(start): why for name, why in self.closed.items() if name.startswith(start)}
        return Listing(inside(self.pictures), closed, inside(self.others), inside(self.folders))

    def dropped(self, used: Iterable[str] = (), rest: str = NO_PICTURES, others: bool = True) -> dict[str, list[str]]:
        """Reason -> names of all that a reader leaves out.

        Args:
            used: pictures that it reads.
            rest: why other pictures are left out.
            others: whether files that are no pictures are named; not where they are known parts of the layout.
        """
        reasons: dict[str, list[str]] = {}
        read = set(used)
        for name, why in self.closed.items():
            if name not in read:  # a table may name it; that it can't be read is then an error of its own
                reasons.setdefault(why, []).append(name)
        if left := [name for name in self.pictures if name not in read]:
            reasons.setdefault(rest, []).extend(left)
        if others and self.others:
            reasons.setdefault(NO_PICTURES, []).extend(self.others)
        return reasons


def list_folder(root: Path, deep: bool = True) -> Listing:
    """The files below a folder; links are followed.

    Args:
        deep: whether to look into its folders.

    Raises:
        OSError: a folder that may not be read.
    """
    pictures: list[str] = []
    closed: dict[str, str] = {}
    others: list[str] = []
    folders: list[str] = []

    def walk(folder: Path, start: str, above: frozenset[tuple[int, int]]) -> None:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_junk(entry.name)]
        for entry in found:
            name = start + entry.name
            shown = name.encode("utf-8", "backslashreplace").decode()
            if shown != name:  # could not be written into tables, after all of the training
                if entry.is_dir():
                    raise ValueError(f"{root}: the folder {shown} has {NOT_UTF8}")
                closed[shown] = NOT_UTF8
            elif entry.is_dir():
                stat = os.stat(entry.path)
                place = stat.st_dev, stat.st_ino
                if place in above:
                    closed[name] = LOOP
                    continue
                folders.append(name)
                if deep:
                    walk(Path(entry.path), f"{name}/", above | {place})
            elif not entry.is_file():
                if entry.is_symlink():
                    closed[name] = BROKEN_LINK
                else:
                    others.append(name)  # sockets and pipes, which would wait for ever
            elif is_picture(name):
                pictures.append(name)
            elif why := obstacle(name):
                closed[name] = why
            else:
                others.append(name)

    stat = os.stat(root)
    walk(root, "", frozenset({(stat.st_dev, stat.st_ino)}))
    return Listing(tuple(sorted(pictures)), dict(sorted(closed.items())), tuple(sorted(others)), tuple(sorted(folders)))


def unlisted(root: Path, names: Iterable[str], table: str) -> dict[str, list[str]]:
    """Reason -> names of the pictures that lie in the folders of listed ones but aren't listed."""
    of_folder = defaultdict(list)
    for name in names:
        top, _, rest = name.rpartition("/") if "/" not in name else name.partition("/")
        of_folder[top].append(rest)
    dropped: dict[str, list[str]] = {}
    for top, used in sorted(of_folder.items()):
        if top == ".." or not (root / top).is_dir():  # a table may lie beside its pictures
            continue
        start = f"{top}/" if top else ""
        for why, left_out in list_folder(root / top, deep=bool(top)).dropped(used, f"not in {table}", False).items():
            dropped.setdefault(why, []).extend(start + name for name in left_out)
    return dropped


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is what operating systems and tools leave behind."""
    return name.startswith(".") or name.lower() in JUNK


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


def home(root: str | Path, *names: str) -> Path:
    """The folder that one of these files or folders is in: `root`, else what it holds, if that is one folder alone.

    Archives are unpacked into folders of their own name. Where there is none of the names, it is `root`.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    root = folder = existing(root)
    while not any((folder / name).exists() for name in names):
        content = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
        if len(content) != 1 or not content[0].is_dir() or content[0].is_symlink():
            return root
        (folder,) = content
    return folder


def files_named(root: Path, name: str) -> list[Path]:
    """The files of this name (or glob pattern) in `root`, else in its subfolders."""
    for pattern in (name, f"*/{name}"):
        paths = [path for path in root.glob(pattern) if path.is_file()]
        if found := sorted(path for path in paths if not any(map(is_junk, path.relative_to(root).parts))):
            return found
    return []


def find_file(root: Path, name: str) -> Path:
    """The one of `files_named`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    found = files_named(root, name)
    if not found:
        raise not_found(name, root)
    if len(found) > 1:
        raise ValueError(f"expected one {name} in {root}; found {some([str(path) for path in found])}")
    return found[0]


def not_found(expected: str, folder: Path) -> FileNotFoundError:
    """The error that a layout does not fit: what was expected, and what the folder has."""
    content = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else []
    return FileNotFoundError(f"expected {expected} in {folder}; found {some(content, 12) or 'nothing'}")


def stem(name: str) -> str:
    """A file's name without folders and image extension, lower-case: `2055.1` and `A/2055.1.JPG` are the same."""
    base = PurePosixPath(name).name.lower()
    return base.removesuffix(PurePosixPath(base).suffix) if is_picture(base) else base


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


def assemble(
    root: Path,
    items: Sequence[tuple[str, str | None]],
    classes: Sequence[str],
    votes: Sequence[Sequence[float]] | None = None,
    vote_names: Sequence[str] = (),
    dropped: Mapping[str, Sequence[str]] | None = None,
    complete: bool = True,
    parts: Sequence[str] | None = None,
    skip_absent: bool | None = None,
) -> ImageDomain:
    """The domain of (name, class) pairs, after a look at whether all is there.

    Args:
        items: class None is unlabelled.
        complete: whether every class must have images.
        skip_absent: whether to leave out, and note as absent, images that are listed but not there; None where the
            reader has no such argument.

    Raises:
        FileNotFoundError: images that are listed but absent, or with `skip_absent` all of them.
        ValueError: a class without images.
    """
    there = [(root / name).is_file() for name, _ in items]
    absent = [name for (name, _), is_there in zip(items, there, strict=True) if not is_there]
    if absent and (not skip_absent or len(absent) == len(items)):
        remedy = "; leave them out with skip_absent: true" if skip_absent is False else ""
        raise FileNotFoundError(
            f"{len(absent)} of {len(items)} listed images are not in {root}: {some(absent)}"
            f"{_where_else(root, absent)}{remedy}"
        )
    dropped = {reason: list(names) for reason, names in (dropped or {}).items()}
    if absent:
        dropped[ABSENT] = [*dropped.get(ABSENT, []), *absent]
        keep = [place for place, is_there in enumerate(there) if is_there]
        items = [items[place] for place in keep]
        votes = None if votes is None else [votes[place] for place in keep]
        parts = None if parts is None else [parts[place] for place in keep]
    counts = Counter(kind for _, kind in items if kind is not None)
    empty = [name for name in classes if name not in counts]
    if empty and complete:
        raise ValueError(f"no images of {some(empty)} in {root}; found {dict(counts) or 'no images at all'}")
    names = [name for name, _ in items]
    label: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    label[None] = UNLABELLED
    return ImageDomain(
        root,
        names,
        [label[kind] for _, kind in items],
        classes,
        None if votes is None else np.array(votes, dtype=np.float64).reshape(len(names), len(vote_names)),
        vote_names,
        dropped,
        parts,
    )


def _where_else(root: Path, absent: Sequence[str]) -> str:
    """Where images that are not there perhaps are."""
    first = absent[0]
    if (root.absolute().parent / first).is_file():
        return f"; {first} is in {root.absolute().parent}: is that the root?"
    folder = root
    for part in PurePosixPath(first).parts:
        if (folder / part).exists():
            folder = folder / part
            continue
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        alike = [name for name in names if plain(name) == plain(part)]
        return f"; {part} is called {alike[0]} there, other in case or in Unicode's form" if alike else ""
    return ""
