"""FI, photographs of Flickr and Instagram with votes of Mechanical Turk workers (You, Luo, Jin & Yang, AAAI 2016).

The layouts are those of the authors' vote tables and of the archives that circulate, as public loading code reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers import scans
from fastmmd.models.data.readers.classes import MIKELS, class_of, match_class
from fastmmd.models.data.readers.files import (
    ABSENT,
    assemble,
    by_stem,
    home,
    inner,
    is_junk,
    list_folder,
    not_found,
    stem,
    unlisted,
)
from fastmmd.models.data.readers.folders import class_folders
from fastmmd.models.data.readers.lists import listed_items, table_items
from fastmmd.models.data.readers.tables import number, read_rows

FOLDERS = ("emotion_dataset", "images", "imgs", "agg/imgs")


def read_fi(
    root: str | Path,
    labels: Literal["well", "noisy"] = "well",
    part: Literal["all", "train", "val", "test"] | None = "all",
    table: str | None = None,
    placeholder_copies: int = 5,
    placeholder_hashes: Sequence[str] = (),
) -> ImageDomain:
    """FI in any of its layouts; the first that fits is read.

    * `table` is given: a csv with the columns `image_name,emotion`, or a txt of lines `name label`, where a label is a
      class's name or its number in our order.
    * `agg/<class>_*.csv` beside class folders: the authors' votes. A row is `id,url,disagree,agree`, without header,
      and *disagree comes first*. Its image is `<class>/<last part of the url>` or `<class>/<id>`, with any extension;
      rows of one image are added up. Photos vanish from the services, so rows without an image are usual.
    * `{train,val,test}/<class>/`, or with other names of parts, see `read_image_folder`.
    * `<class>/`, the well-labelled images only.

    Class folders may lie in `emotion_dataset/`, `images/`, `imgs/`, `agg/imgs/` or in the root itself. Votes, if there
    are any, are (disagree, agree).

    Args:
        root: folder of the data set.
        labels: "well" keeps the images whose raters agree with the class more often than not (23,166 rows), "noisy"
            keeps all, so it needs the votes.
        part: of the layout that has parts; None all, each image with its part in `ImageDomain.parts`.
        table: path of the csv or txt, below the root.
        placeholder_copies: see `scans.placeholders`; such files are dropped.
        placeholder_hashes: likewise.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, "agg", *FOLDERS)
    base = inner(root, *FOLDERS)
    votes = sorted(path for path in (root / "agg").glob("*.csv") if not is_junk(path.name))
    if labels == "noisy" and (table is not None or part not in (None, "all") or not votes):
        raise not_found("agg/<class>_*.csv (noisy labels need the votes, all parts and no table)", root)

    if table is not None:
        if part not in (None, "all"):
            raise ValueError(f"part {part!r}: a table, {table}, has no parts")
        path = root / table
        is_csv = path.suffix.lower() == ".csv"
        rows = (
            table_items(path, ("image_name", "emotion"), MIKELS, root) if is_csv else listed_items(path, MIKELS, root)
        )
        folder = base if (base / rows[0][0]).is_file() else root
        domain = assemble(folder, rows, MIKELS, dropped=unlisted(folder, [name for name, _ in rows], table))
    elif votes and part in (None, "all"):
        domain = _voted(base, votes, keep_all=labels == "noisy")
    else:
        domain = class_folders(base, MIKELS, part).domain(complete=True)
    found = scans.placeholders(domain, placeholder_copies, placeholder_hashes)
    return domain.without(found, "placeholder") if found else domain


def _voted(base: Path, tables: Sequence[Path], keep_all: bool) -> ImageDomain:
    """The images that the vote tables name."""
    listing = list_folder(base)
    of_kind: dict[str, list[str]] = {kind: [] for kind in MIKELS}
    for name in listing.pictures:
        kind = match_class(name.split("/")[0], MIKELS) if "/" in name else None
        if kind is not None:
            of_kind[kind].append(name)
    files = {kind: by_stem(names) for kind, names in of_kind.items()}
    counts: dict[tuple[str, str], tuple[float, float]] = {}
    absent: list[str] = []
    for path in tables:
        kind = class_of(path.stem.split("_")[0], MIKELS, str(path))
        for row in read_rows(path, ","):
            if len(row.cells) != 4:
                raise ValueError(f"{row.where}: expected id,url,disagree,agree; found {row.cells}")
            key, url = row.cells[:2]
            disagree, agree = (number(cell, row.where) for cell in row.cells[2:])
            name = files[kind].get(stem(urlsplit(url).path)) or files[kind].get(stem(key))
            if name is None:
                absent.append(f"{kind}/{url}")
                continue
            before = counts.get((name, kind), (0, 0))
            counts[name, kind] = (before[0] + disagree, before[1] + agree)
    if not counts:
        raise not_found(f"images <class>/<last part of the url>, such as {some(absent, 2)},", base)
    if absent:
        total = len(absent) + len(counts)
        warnings.warn(f"{base}: {len(absent)} of {total} rated images are not there: {some(absent)}", stacklevel=3)
    kept = {item: vote for item, vote in counts.items() if keep_all or vote[1] > vote[0]}
    rejected = sorted(name for name, kind in counts if (name, kind) not in kept)
    unrated = listing.dropped([name for name, _ in counts], "not in the vote tables", others=False)
    dropped = {ABSENT: absent, "rejected by the raters": rejected, **unrated}
    return assemble(
        base,
        list(kept),
        MIKELS,
        list(kept.values()),
        ("disagree", "agree"),
        {reason: names for reason, names in dropped.items() if names},
    )
