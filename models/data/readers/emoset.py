"""EmoSet-118K (Yang et al., ICCV 2023), as its archive and its README lay it out."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fastmmd.models.data.domain import PARTS, ImageDomain, some
from fastmmd.models.data.readers.classes import MIKELS, class_of
from fastmmd.models.data.readers.files import assemble, home, list_folder, not_found


def read_emoset(
    root: str | Path, part: Literal["all", "train", "val", "test"] | None = "all", skip_absent: bool = False
) -> ImageDomain:
    """EmoSet-118K: `{train,val,test}.json` and `image/<class>/<class>_00001.jpg`.

    The json files hold rows `[emotion, image, annotation]` in the archive and `[emotion, id, image, annotation]` in its
    README; the image is the item that begins with `image/`. The set's own order of the classes is another than that of
    the other sets with Mikels' emotions, so they are mapped by name.

    Args:
        root: folder of the data set.
        part: which rows; None all, each image with its part in `ImageDomain.parts`.
        skip_absent: whether to leave out images that are not there, of a set that is incomplete; they are an error if
            not.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, "image")
    asked = [part] if part in PARTS else list(PARTS)
    missing = [f"{name}.json" for name in asked if not (root / f"{name}.json").is_file()]
    if missing:
        there = [name for name in PARTS if (root / f"{name}.json").is_file()]
        remedy = f"; options: {{part: {there[0]}}} reads that part alone" if there else ""
        raise FileNotFoundError(f"{not_found(' and '.join(missing), root)}{remedy}")
    items: list[tuple[str, str]] = []
    parts: list[str] = []
    first: dict[str, str] = {}
    for name in asked:
        path = root / f"{name}.json"
        for number, row in enumerate(_rows(path)):
            where = f"{path}, row {number}"
            cells = [cell for cell in row if isinstance(cell, str)] if isinstance(row, list) else []
            image = next((cell for cell in cells if cell.replace("\\", "/").startswith("image/")), None)
            if image is None:
                raise ValueError(f"{where}: expected a row with an item image/...; found {row}")
            image = PurePosixPath(image.replace("\\", "/")).as_posix()
            if first.setdefault(image, where) is not where:
                raise ValueError(f"{where}: {image} is listed before, in {first[image]}")
            items.append((image, class_of(cells[0], MIKELS, where)))
            parts.append(name)
    dropped = {}
    if (root / "image").is_dir():
        listing = list_folder(root / "image")
        used = {image.removeprefix("image/") for image in first}
        reason = f"not in {', '.join(f'{name}.json' for name in asked)}"
        dropped = {
            why: [f"image/{name}" for name in names]
            for why, names in listing.dropped(used, reason, others=False).items()
        }
    return assemble(
        root, items, MIKELS, dropped=dropped, parts=parts if part is None else None, skip_absent=skip_absent
    )


def _rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: no json: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
    if not isinstance(rows, list):
        found = some(list(rows)) if isinstance(rows, dict) else repr(rows)[:80]
        raise ValueError(f"{path}: expected a list of rows; found {found}")
    return rows
