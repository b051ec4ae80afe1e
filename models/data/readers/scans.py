"""What only the files' contents tell: pictures that cannot be read, identical files, placeholders."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm.contrib.concurrent import thread_map

from fastmmd.models.data.domain import ImageDomain


class Inspection(NamedTuple):
    """An image file as stored: (width, height) in pixels and PIL mode, or why it cannot be read."""

    size: tuple[int, int] | None
    mode: str | None
    error: str | None


def inspect(domain: ImageDomain) -> list[Inspection]:
    """Decodes every image of the domain, with a progress bar."""

    def look(item: int) -> Inspection:
        try:
            domain[item]
            with Image.open(domain.root / domain.names[item]) as image:
                return Inspection(image.size, image.mode, None)
        except OSError as error:
            return Inspection(None, None, str(error))

    return thread_map(look, range(len(domain)), desc="reading images", unit="image", disable=None)


def readable(domain: ImageDomain) -> ImageDomain:
    """The domain without the images that cannot be read, which are warned about and noted as "unreadable"."""
    inspections = inspect(domain)
    names = [name for name, found in zip(domain.names, inspections, strict=True) if found.error]
    if names:
        warnings.warn(f"{domain.root}: left out {len(names)} unreadable images: {', '.join(names)}", stacklevel=2)
    return domain.without(names, "unreadable") if names else domain


def identical(domain: ImageDomain, copies: int = 2) -> list[list[str]]:
    """Groups of at least `copies` byte-identical files, by name."""
    # Few files have the size of another, so few have to be hashed.
    by_size = defaultdict(list)
    for name in domain.names:
        by_size[(domain.root / name).stat().st_size].append(name)
    by_content = defaultdict(list)
    for names in by_size.values():
        if len(names) >= copies:
            for name in names:
                by_content[sha256(domain.root / name)].append(name)
    return [names for names in by_content.values() if len(names) >= copies]


def copies_of(domain: ImageDomain, files: Sequence[Path]) -> list[str]:
    """Names of the domain's images that are byte-identical to one of `files`, and not one of these themselves."""
    by_size = defaultdict(list)
    for path in files:
        by_size[path.stat().st_size].append(path)
    hashes: dict[int, set[str]] = {}  # of a size's files, once one of the domain's has that size
    known = set(files)
    found = []
    for name in domain.names:
        path = domain.root / name
        size = path.stat().st_size
        if path not in known and size in by_size:
            if size not in hashes:
                hashes[size] = {sha256(other) for other in by_size[size]}
            if sha256(path) in hashes[size]:
                found.append(name)
    return found


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
    return hashlib.sha256(path.read_bytes()).hexdigest()
