"""EmoSet-118K (Yang et al., ICCV 2023), as its archive and its README lay it out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.classes import MIKELS, class_of
from fastmmd.models.data.readers.files import assemble, existing, not_found

PARTS = ("train", "val", "test")


def read_emoset(root: str | Path, part: Literal["all", "train", "val", "test"] = "all") -> ImageDomain:
    """EmoSet-118K: `{train,val,test}.json` and `image/<class>/<class>_00001.jpg`.

    The json files hold rows `[emotion, image, annotation]` in the archive and `[emotion, id, image, annotation]` in its
    README; the image is the item that begins with `image/`. The set's own order of the classes is another than that of
    the other sets with Mikels' emotions, so they are mapped by name.

    Args:
        root: folder of the data set.
        part: which rows.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    items = []
    for name in PARTS if part == "all" else [part]:
        path = root / f"{name}.json"
        if not path.is_file():
            raise not_found(path.name, root)
        for row in json.loads(path.read_text(encoding="utf-8")):
            image = next((cell for cell in row if str(cell).startswith("image/")), None)
            if image is None:
                raise ValueError(f"{path}: expected rows with an item image/...; found {row}")
            items.append((image, class_of(row[0], MIKELS, str(path))))
    return assemble(root, items, MIKELS)
