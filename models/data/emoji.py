"""The same emoji drawn by different vendors: real pictures in two or more domains.

The drawings are icon sets in Iconify's format (`icons.json`, `metadata.json`, `chars.json`); none is part of this
package. Each is one npm package of 1 to 3 MB, its licence in its `info.json`:

    npm install @iconify-json/noto@1.2.9                 # Google's, Apache-2.0
    npm install @iconify-json/twemoji@1.2.5              # Twitter's, CC-BY-4.0
    npm install @iconify-json/fluent-emoji-flat@1.2.6    # Microsoft's, MIT
    pip install resvg-py                                 # draws them, MIT
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset

from fastmmd.models.files import write_atomically

# Unicode's groups but for flags, which are too few in two of the three sets.
GROUPS = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)

# Faces that express an emotion by their Unicode name. The choice is ours; no one has rated it.
EMOTIONS = {
    "amusement": "😂🤣😆😹😄😁😅😜🤪😝😛🤡",
    "anger": "😠😡🤬👿😤😾👹👺",
    "awe": "😮😯😲🤯😳🫢🥹🙀",
    "contentment": "😊☺😌🙂😇🥰🤗😺😸😚",
    "disgust": "🤢🤮😖🤧🥴😒😷💩",
    "excitement": "🤩🥳😍😻😀😃🤠😎",
    "fear": "😱😨😰😧😬👻💀🫣",
    "sadness": "😢😭😞😔😟🙁☹😿🥺😥😓😩😫",
}

# Iconify's measures of an icon that states none.
_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}

SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})


class Emoji(Dataset):
    """One vendor's emoji: (RGB image, label).

    Emoji of the same name are the same in all sets. A test of transfer from one vendor to another has to keep the
    test's emoji out of the source (`exclude`), and folds over several vendors have to keep the drawings of one emoji
    together (`groups` of `stratified_split`); else the network is asked for what it has seen.

    Variants by skin tone are left out, and drawings that are the same as another one's (Twitter draws 30 families in
    four ways). By groups there are 1,673 emoji of Noto's, 1,647 of Twitter's and 1,585 of Microsoft's, which puts ten
    of them in another group than the others do; by emotions 75 of each.

    Args:
        folder: the icon set, such as "node_modules/@iconify-json/noto".
        labels: "groups" for Unicode's eight groups (the set says which emoji is in which), or "emotions" for 75 faces
            in Mikels' eight emotions.
        size: side of the pictures in pixels.
        background: "white", or "random" for a plain colour that depends on `seed`, the vendor and the emoji.
        seed: seed of the backgrounds.
        exclude: names of emoji to leave out.
        cache: folder to keep drawings in, as PNG files that are drawn when first asked for. None draws every time,
            which takes a few ms.

    Attributes:
        vendor: the set's name, such as "noto".
        classes: the class names.
        targets: every item's label.
        names: every item's code points, such as "1f600", sorted.
        fingerprint: what the pictures depend on, beside the names.

    Raises:
        FileNotFoundError: `folder` is not an icon set.
        ModuleNotFoundError: (on access) the package that draws is not installed.
        ValueError: there are no such labels or background.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: str = "groups",
        size: int = 64,
        background: str = "white",
        seed: int = 0,
        exclude: Collection[str] = (),
        cache: str | Path | None = None,
    ) -> None:
        if labels not in ("groups", "emotions"):
            raise ValueError(f"labels must be 'groups' or 'emotions', got {labels!r}")
        if background not in ("white", "random"):
            raise ValueError(f"background must be 'white' or 'random', got {background!r}")
        icons, metadata, chars = (_read(Path(folder), name) for name in ("icons", "metadata", "chars"))
        self.vendor = icons["prefix"]
        self.size = size
        self.background = background
        self.seed = seed
        # A new release of the set, or another size, has other drawings.
        self.cache = None if cache is None else Path(cache) / f"{self.vendor}-{icons.get('lastModified', 0)}-{size}"

        self.classes = GROUPS if labels == "groups" else tuple(EMOTIONS)
        classes = _groups(metadata, chars) if labels == "groups" else _emotions()
        chosen = sorted((classes.keys() & chars.keys()) - set(exclude))
        self.names = [name for name in chosen if chars[name] in icons["icons"]]
        self.drawings = {name: _svg(icons, chars[name]) for name in self.names}
        first: dict[str, str] = {}
        for name, drawing in self.drawings.items():
            first.setdefault(drawing, name)
        self.names = [name for name in self.names if first[self.drawings[name]] == name]
        self.targets = [self.classes.index(classes[name]) for name in self.names]
        self.fingerprint = f"{self.vendor} {icons.get('lastModified', 0)} {size} {background} {seed}"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        name = self.names[item]
        drawing = Image.open(BytesIO(self._png(name)))
        picture = Image.new("RGB", (self.size, self.size), self._colour(name))
        # A drawing that isn't square is narrower or lower than the picture.
        corner = ((self.size - drawing.width) // 2, (self.size - drawing.height) // 2)
        picture.paste(drawing, corner, drawing)
        return picture, self.targets[item]

    def _png(self, name: str) -> bytes:
        if self.cache is None:
            return _draw(self.drawings[name], self.size)
        path = self.cache / f"{name}.png"
        if not path.exists():
            with write_atomically(path, "wb") as file:
                file.write(_draw(self.drawings[name], self.size))
        return path.read_bytes()

    def _colour(self, name: str) -> tuple[int, ...]:
        if self.background == "white":
            return (255, 255, 255)
        random = np.random.default_rng([self.seed, *f"{self.vendor}/{name}".encode()])
        return tuple(random.integers(256, size=3).tolist())


class Vendors(Dataset):
    """The emoji of several vendors as one domain: (RGB image, label).

    Args:
        sets: one a vendor, with the same classes.

    Attributes:
        classes: the class names.
        targets: every item's label.
        names: vendor and code points of every item, such as "noto/1f600".
        groups: every item's code points; folds that tear no group (`stratified_split`) never ask for an emoji that
            has been seen in another vendor's drawing.
        fingerprint: what the pictures depend on, beside the names.

    Raises:
        ValueError: no sets, sets with other classes, or two of one vendor.
    """

    def __init__(self, sets: Sequence[Emoji]) -> None:
        vendors = [one.vendor for one in sets]
        if not sets or len(set(vendors)) < len(vendors):
            raise ValueError(f"sets: expected at least one, each of another vendor, got {vendors}")
        if any(one.classes != sets[0].classes for one in sets):
            raise ValueError(f"sets: expected the same classes in all, got {[list(one.classes) for one in sets]}")
        self.sets = ConcatDataset(sets)
        self.classes = sets[0].classes
        self.targets = [target for one in sets for target in one.targets]
        self.groups = [name for one in sets for name in one.names]
        self.names = [f"{one.vendor}/{name}" for one in sets for name in one.names]
        self.fingerprint = " ".join(one.fingerprint for one in sets)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        return self.sets[item]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is no icon set in Iconify's format; to get one in "
            "node_modules/@iconify-json/noto, run: npm install @iconify-json/noto (or /twemoji, or /fluent-emoji-flat)"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _groups(metadata: dict[str, Any], chars: dict[str, str]) -> dict[str, str]:
    """The group of every emoji without a skin tone, by code points."""
    groups = {icon: group for group, icons in metadata["categories"].items() if group in GROUPS for icon in icons}
    return {
        code: groups[icon] for code, icon in chars.items() if icon in groups and SKIN_TONES.isdisjoint(code.split("-"))
    }


def _emotions() -> dict[str, str]:
    """The emotion of every face, by code point."""
    return {f"{ord(face):x}": emotion for emotion, faces in EMOTIONS.items() for face in faces}


def _svg(icons: dict[str, Any], name: str) -> str:
    """One icon as a document. Its measures are its own, else the set's, else Iconify's."""
    icon = icons["icons"][name]
    box = {key: icon.get(key, icons.get(key, usual)) for key, usual in _BOX.items()}
    view = "{left} {top} {width} {height}".format(**box)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'


def _draw(svg: str, size: int) -> bytes:
    """A PNG file with transparency whose longer side is `size`."""
    try:
        from resvg_py import svg_to_bytes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("drawing emoji takes the package resvg-py: pip install resvg-py") from error
    return svg_to_bytes(svg_string=svg, width=size, height=size)
