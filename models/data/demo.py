"""Generated pictures in the layouts of FI and the small sets: the papers' experiments without their images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fastmmd.models.data import layouts
from fastmmd.models.data.layouts import Picture
from fastmmd.models.data.paintings import LOOKS, painting
from fastmmd.models.data.readers.mikels import NORMS
from fastmmd.models.data.stats import PAPER

# What everything says that is made of these sets.
INVENTED = "Generated pictures, invented labels."

# How the sets differ: FI and IAPS hold photographs, the others pictures with artistic intent. Each has its own seed.
STYLES = {
    "fi": ("photo", 1),
    "artphoto": ("painting", 2),
    "iaps": ("photo", 3),
    "abstract": ("painting", 4),
    "mart": ("painting", 5),
}

# Pictures of Abstract in the proportions of the 228 without a tie, with so few of anger.
ABSTRACT = (31, 4, 18, 77, 22, 45, 44, 39)

# Images of the paper for each generated one. ArtPhoto and IAPS are small enough as they are, so that as many are
# tested as in the paper.
SHRINK = {"fi": 10, "artphoto": 1, "iaps": 1}


def write_emotion_sets(root: Path, size: int = 72, shrink: Mapping[str, int] = SHRINK) -> dict[str, Path]:
    """Writes `paintings` in the paper's class proportions, for the readers of these sets; complete sets are kept.

    The labels are invented. Of FI's raters, as in the real tables, some reject an image's class: one in nine images is
    such, and the reader leaves it out.

    Args:
        root: folder of the sets.
        size: side of the pictures in pixels.
        shrink: set -> images in the paper for each one here; the sets that it names are written.

    Returns:
        Set -> its folder.
    """
    writers = {"fi": layouts.write_fi, "artphoto": layouts.write_artphoto, "iaps": layouts.write_iaps}
    folders = {}
    for name, factor in shrink.items():
        folder = root / f"{name}-{size}-{factor}"
        folders[name] = _written(folder, writers[name], _pictures(name, factor, size))
    return folders


def write_noisy_fi(root: Path, size: int = 72, shrink: int = 5) -> Path:
    """Writes generated pictures as Flickr and Instagram with its noisy labels; a complete set is kept.

    As in the real set, the raters reject 65,134 labels for 23,164 that they accept: a training set of 80 % of the
    accepted and all rejected ones has 77.9 % wrong labels. The true classes of rejected pictures are the other seven,
    evenly.

    Args:
        root: folder of the set's folder.
        size: side of the pictures in pixels.
        shrink: images in the paper for each one here.

    Returns:
        The set's folder.
    """

    def pictures() -> Iterator[Picture]:
        style, seed = STYLES["fi"]
        made = [count // shrink for count in PAPER["fi"][0]]
        numbers = list(made)  # of each class, the next picture
        for label, (kind, count) in enumerate(zip(LOOKS, made, strict=True)):
            for k in range(count):
                yield Picture(kind, painting(label, k, seed, size, style), (1, 4))
            for k in range(count * 65134 // 23164):
                truth = (label + 1 + k % (len(LOOKS) - 1)) % len(LOOKS)
                yield Picture(kind, painting(truth, numbers[truth], seed, size, style), (4, 1))
                numbers[truth] += 1

    return _written(root / f"fi-noisy-{size}-{shrink}", layouts.write_fi, pictures())


def write_abstract_set(root: Path, size: int = 72, shrink: int = 1) -> Path:
    """Writes 280 generated paintings as Abstract, whose class is what most of 14 raters say; a complete set is kept.

    The votes are drawn, and a third go to the class that a picture was painted for. So they tie for some pictures, as
    in the real set, and for others the majority is wrong.

    Args:
        root: folder of the set's folder.
        size: side of the pictures in pixels.
        shrink: images in the real set for each one here.

    Returns:
        The set's folder.
    """

    def pictures() -> Iterator[Picture]:
        style, seed = STYLES["abstract"]
        for label, (kind, count) in enumerate(zip(LOOKS, ABSTRACT, strict=True)):
            for k in range(count // shrink):
                chances = np.full(len(LOOKS), 2 / 3 / (len(LOOKS) - 1))
                chances[label] = 1 / 3
                votes = np.random.default_rng([seed, label, k]).multinomial(14, chances)
                yield Picture(kind, painting(label, k, seed, size, style), votes.tolist())

    return _written(root / f"abstract-{size}-{shrink}", layouts.write_abstract, pictures())


def write_mart_set(root: Path, size: int = 72, shrink: int = 1) -> Path:
    """Writes 500 generated paintings as MART, with scores; a complete set is kept.

    The scores are drawn around 1 for the looks of amusement, awe, contentment and excitement and around -1 for the
    others; some fall on the other side of their median.

    Args:
        root: folder of the set's folder.
        size: side of the pictures in pixels.
        shrink: images in the real set for each one here.

    Returns:
        The set's folder.
    """

    def pictures() -> Iterator[Picture]:
        style, seed = STYLES["mart"]
        for k in range(500 // shrink):
            label = k % len(LOOKS)
            kind = list(LOOKS)[label]
            sign = 1 if kind in NORMS["positive"].values() else -1
            score = np.random.default_rng([seed, k]).normal(sign, 1)
            yield Picture(kind, painting(label, k, seed, size, style), (round(score, 3),))

    return _written(root / f"mart-{size}-{shrink}", layouts.write_mart, pictures())


def _written(folder: Path, write: Callable[[Path, Iterable[Picture]], object], pictures: Iterable[Picture]) -> Path:
    """`folder`, with the pictures in it when it appears; one that is there is complete."""
    if not folder.is_dir():
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            write(draft, tqdm(pictures, desc=f"writing {folder.name}", unit="image"))
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _pictures(name: str, shrink: int, size: int) -> Iterator[Picture]:
    style, seed = STYLES[name]
    for label, (kind, count) in enumerate(zip(LOOKS, PAPER[name][0], strict=True)):
        for k in range(count // shrink):
            yield Picture(kind, painting(label, k, seed, size, style), (1, 4))
            if name == "fi" and k % 8 == 0:  # another class's picture, which the raters reject
                yield Picture(kind, painting((label + 1) % len(LOOKS), count + k, seed, size, style), (4, 1))
