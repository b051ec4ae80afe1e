"""Generated pictures in the layouts of FI, ArtPhoto and IAPS-Subset: the paper's experiment without its images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from fastmmd.models.data import layouts
from fastmmd.models.data.layouts import Picture
from fastmmd.models.data.paintings import LOOKS, painting
from fastmmd.models.data.stats import PAPER

# How the sets differ: FI and IAPS hold photographs, ArtPhoto pictures with artistic intent. Each has its own seed.
STYLES = {"fi": ("photo", 1), "artphoto": ("painting", 2), "iaps": ("photo", 3)}

# Images of the paper for each generated one. ArtPhoto and IAPS are small enough as they are, so that as many are
# tested as in the paper.
SHRINK = {"fi": 10, "artphoto": 1, "iaps": 1}


def write_emotion_sets(root: Path, size: int = 72, shrink: Mapping[str, int] = SHRINK) -> dict[str, Path]:
    """Writes `paintings` in the paper's class proportions, for the readers of these sets; complete sets are kept.

    The labels are invented. Of FI's raters, as in the real tables, some reject an image's class: one in nine images is
    such, and the reader leaves it out.

    Args:
        root: folder of the three sets.
        size: side of the pictures in pixels.
        shrink: set -> images in the paper for each one here.

    Returns:
        Set -> its folder.
    """
    writers = {"fi": layouts.write_fi, "artphoto": layouts.write_artphoto, "iaps": layouts.write_iaps}
    folders = {}
    for name, write in writers.items():
        folders[name] = root / f"{name}-{size}-{shrink[name]}"
        if folders[name].is_dir():
            continue
        draft = root / f".{name}.{os.getpid()}"
        try:
            write(draft, tqdm(_pictures(name, shrink[name], size), desc=f"writing {name}", unit="image"))
            os.replace(draft, folders[name])
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folders


def _pictures(name: str, shrink: int, size: int) -> Iterator[Picture]:
    style, seed = STYLES[name]
    for label, (kind, count) in enumerate(zip(LOOKS, PAPER[name][0], strict=True)):
        for k in range(count // shrink):
            yield Picture(kind, painting(label, k, seed, size, style), (1, 4))
            if name == "fi" and k % 8 == 0:  # another class's picture, which the raters reject
                yield Picture(kind, painting((label + 1) % len(LOOKS), count + k, seed, size, style), (4, 1))
