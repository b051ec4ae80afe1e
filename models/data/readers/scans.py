"""What only the files' contents tell: pictures that cannot be read, copies, placeholders.

All files of a domain are decoded once; what was found is kept in the cache folder (`FASTMMD_CACHE`, else
`~/.cache/fastmmd`) under each file's name, size and times of change, so that later runs read what has changed only.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.pictures import obstacle, read_picture
from fastmmd.models.files import write_atomically

# Files between two writes of the cache, so that an interrupted look goes on where it was.
CHUNK = 4096
# What a cached inspection depends on beside its file.
VERSION = f"2 pillow {PIL.__version__}"


class Inspection(NamedTuple):
    """What a look at an image file found, or why it cannot be read.

    Args:
        size: (width, height) in pixels, as stored.
        mode: PIL's mode, as stored.
        sha256: hash of the file, in hexadecimal.
        pixels: hash of the picture as it is read: copies in other formats have it in common.
        uniform: whether all of it has one colour.
        error: why it cannot be read; all else is then None.
    """

    size: tuple[int, int] | None = None
    mode: str | None = None
    sha256: str | None = None
    pixels: str | None = None
    uniform: bool | None = None
    error: str | None = None


def cache_folder() -> Path:
    """Where inspections are kept: `FASTMMD_CACHE`, else `fastmmd` in the user's cache folder."""
    own = os.environ.get("FASTMMD_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastmmd"


def inspect(domain: ImageDomain) -> list[Inspection]:
    """Decodes every image of the domain that has changed since it was last looked at, with a progress bar."""
    cache = _Cache(domain)
    inspections = {item: kept for item in range(len(domain)) if (kept := cache.get(item)) is not None}
    todo = [item for item in range(len(domain)) if item not in inspections]
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(todo), desc=f"reading {domain.root}", unit="image", disable=None if todo else True) as bar,
    ):
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            for item, inspection in zip(chunk, pool.map(lambda item: _look(domain, item), chunk), strict=True):
                inspections[item] = inspection
                cache.put(item, inspection)
                bar.update()
            cache.write()
    return [inspections[item] for item in range(len(domain))]


def checked(domain: ImageDomain, skip_unreadable: bool = False) -> ImageDomain:
    """The domain after a look at all its files, with `inspections`.

    Args:
        skip_unreadable: leave out images that cannot be read, which are warned about and noted as "unreadable".

    Raises:
        OSError: images that cannot be read, or with `skip_unreadable` none that can; the error names the files.
    """
    inspections = dict(zip(domain.names, inspect(domain), strict=True))
    broken = [item for item, name in enumerate(domain.names) if inspections[name].error is not None]
    if broken:
        told = [f"{domain.location(item)}: {inspections[domain.names[item]].error}" for item in broken[:10]]
        told += [f"... and {len(broken) - 10} more"] if len(broken) > 10 else []
        names = "\n  ".join(["", *told])
        if not skip_unreadable or len(broken) == len(domain):
            raise OSError(
                f"{len(broken)} of {len(domain)} images cannot be read:{names}\nReplace or remove them, or leave them "
                "out with skip_unreadable: true (--data.source.skip_unreadable=true, or data.target's)."
            )
        warnings.warn(f"left out {len(broken)} unreadable images of {len(domain)}:{names}", stacklevel=3)
        domain = domain.without([domain.names[item] for item in broken], "unreadable")
    else:
        domain = domain.subset(range(len(domain)))
    domain.inspections = inspections
    return domain


class _Cache:
    """The inspections of a folder's files that are kept from run to run."""

    def __init__(self, domain: ImageDomain) -> None:
        self.domain = domain
        self.path = cache_folder() / "pictures" / f"{sha256_of(str(domain.root.resolve()).encode())[:16]}.json"
        self.kept: dict[str, Any] = {}
        self.new: dict[str, Any] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["version"] == VERSION:
                self.kept = content["files"]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that was damaged: all is looked at again
            pass

    def get(self, item: int) -> Inspection | None:
        stored = self.kept.get(self.domain.names[item])
        try:
            if stored is None or stored[:2] != list(self.domain.stamp(item)):
                return None
        except OSError as error:
            return Inspection(error=f"{type(error).__name__}: {error}")
        size, *rest = stored[2:]
        return Inspection(tuple(size), *rest)

    def put(self, item: int, inspection: Inspection) -> None:
        if inspection.error is None:  # what cannot be read is tried again each time
            self.new[self.domain.names[item]] = [*self.domain.stamp(item), *inspection[:-1]]

    def write(self) -> None:
        if not self.new:
            return
        self.kept |= self.new
        self.new = {}
        try:
            with write_atomically(self.path) as file:
                json.dump({"version": VERSION, "files": self.kept}, file)
        except OSError as error:
            warnings.warn(f"what was read is not kept for later runs: {error}; set FASTMMD_CACHE", stacklevel=3)


def _look(domain: ImageDomain, item: int) -> Inspection:
    try:
        content = domain.content(item)
        picture = read_picture(content)
        with Image.open(BytesIO(content)) as image:
            size, mode = image.size, image.mode
    except Exception as error:  # PIL raises nearly every type on a broken file
        told = obstacle(domain.names[item]) if isinstance(error, UnidentifiedImageError) else None
        return Inspection(error=f"{type(error).__name__}: {told or error}")
    uniform = all(least == most for least, most in picture.getextrema())
    pixels = sha256_of(f"{picture.size}".encode() + picture.tobytes())
    return Inspection(size, mode, sha256_of(content), pixels, uniform)


def duplicates(*domains: ImageDomain) -> list[list[tuple[int, str]]]:
    """Groups of pictures that are the same pixel by pixel, whatever their files' formats.

    Args:
        domains: looked at by `checked`.

    Returns:
        Groups of (number of the domain, name), each of at least two.
    """
    groups = defaultdict(list)
    for number, domain in enumerate(domains):
        for name in domain.names:
            groups[domain.inspections[name].pixels].append((number, name))
    return [group for group in groups.values() if len(group) > 1]


def identical(domain: ImageDomain, copies: int = 2) -> list[list[str]]:
    """Groups of at least `copies` byte-identical files, by name."""
    # Few files have the size of another, so few have to be hashed.
    by_size = defaultdict(list)
    for item in range(len(domain)):
        by_size[domain.stamp(item)[0]].append(item)
    by_content = defaultdict(list)
    for items in by_size.values():
        if len(items) >= copies:
            for item in items:
                by_content[sha256_of(domain.content(item))].append(domain.names[item])
    return [names for names in by_content.values() if len(names) >= copies]


def placeholders(domain: ImageDomain, copies: int = 5, hashes: Sequence[str] = ()) -> list[str]:
    """Names of pictures that stand for a photo that is no longer available.

    A photo service answers with one and the same file for every removed photo, so a file that occurs under many names
    is taken for such a picture, whatever the service.

    Args:
        copies: how many are many; 0 for no such search. Photos that raters saw twice or thrice are kept by the default,
            which is ours.
        hashes: SHA-256 (hexadecimal) of further files to find.
    """
    found = {name for names in identical(domain, copies) for name in names} if copies else set()
    if hashes:
        known = {value.lower() for value in hashes}
        found |= {name for name in domain.names if sha256(domain.root / name) in known}
    return sorted(found)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    return sha256_of(path.read_bytes())


def sha256_of(content: bytes) -> str:
    """Hash of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
