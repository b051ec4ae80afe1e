"""The small sets with Mikels' emotions: ArtPhoto and Abstract (Machajdik & Hanbury 2010), IAPS-Subset (Mikels 2005).

The layouts are those of the archives at imageemotion.org and of the norm tables published with Mikels' paper.
"""

from __future__ import annotations

from pathlib import Path

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers.classes import MIKELS, class_of, match_class
from fastmmd.models.data.readers.files import (
    assemble,
    by_stem,
    columns,
    existing,
    files_named,
    find_file,
    folder_items,
    images,
    inner,
    not_found,
    number,
    read_table,
    stem,
)

NORMS = {
    "positive": {"AmusMean": "amusement", "AweMean": "awe", "ContMean": "contentment", "ExciMean": "excitement"},
    "negative": {"AngrMean": "anger", "DisgMean": "disgust", "FearMean": "fear", "SadnMean": "sadness"},
}
# In the norms, but not in every copy of IAPS.
PERHAPS_ABSENT = {"2819"}


def read_artphoto(root: str | Path) -> ImageDomain:
    """ArtPhoto: `<class>_NNNN.jpg` in one folder, `testImages_artphoto/` or the root; 806 images.

    The class is what stands before the first "_", and sadness is called `sad`. `ReadMe.rtf` and `.DS_Store` lie
    beside; extensions are in any case.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    folder = inner(existing(root), "testImages_artphoto")
    names = images(folder, "*")
    if not names:
        raise not_found("<class>_NNNN.jpg", folder)
    return assemble(
        folder, [(name, class_of(name.split("_")[0], MIKELS, f"{folder}/{name}")) for name in names], MIKELS
    )


def read_abstract(root: str | Path) -> ImageDomain:
    """Abstract: 280 paintings with about 14 votes each; the class is the one with most votes, and ties are dropped (228
    remain).

    `testImages_abstract/` (or the root) holds the images, and it or the root `ABSTRACT_groundTruth.csv`, in which names
    and header stand in single quotes, contentment is `Content`, sadness `Sad`, and lines may end as on Windows. The
    domain's votes are the counts of the classes in their order.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    folder = inner(root, "testImages_abstract")
    path = find_file(root, "ABSTRACT_groundTruth.csv")
    (_, *header), *rows = read_table(path)
    places = columns([match_class(name, MIKELS) or name for name in header], MIKELS, path)
    files = by_stem(images(folder, "*"))
    items, votes, tied = [], [], []
    for name, *counts in rows:
        ordered = [number(counts[place], path) for place in places]
        if ordered.count(max(ordered)) > 1:
            tied.append(name)
        else:
            items.append((files.get(stem(name), name), MIKELS[ordered.index(max(ordered))]))
            votes.append(ordered)
    return assemble(folder, items, MIKELS, votes, MIKELS, {"tied votes": tied} if tied else None)


def read_iaps(root: str | Path) -> ImageDomain:
    """IAPS-Subset: pictures such as `1040.jpg` and `2055.1.jpg` with Mikels' norms, or sorted into `<class>/`.

    `Mikels2005positivenorms.csv` and `Mikels2005negativenorms.csv` have a row a picture with the mean rating of four
    emotions each; the class is the highest (the first of equal ones). Picture numbers are floats there: 1040.0 is
    `1040`, 2055.1 stays. The pictures may lie in any subfolders. Picture 2819 may be missing.

    No total is checked: 385, 390 and 395 pictures are all in print.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    if not files_named(root, "Mikels2005*norms.csv"):
        items = folder_items(root, "", MIKELS)
        if not items:
            raise not_found("Mikels2005positivenorms.csv and Mikels2005negativenorms.csv, or <class>/*.jpg,", root)
        return assemble(root, items, MIKELS)
    files = by_stem(images(root))
    found, absent = [], []
    for sign, emotions in NORMS.items():
        path = find_file(root, f"Mikels2005{sign}norms.csv")
        header, *rows = read_table(path)
        picture, *means = columns(header, ["Picture", *emotions], path)
        for row in rows:
            name = f"{number(row[picture], path):g}"
            ratings = [number(row[place], path) for place in means]
            emotion = list(emotions.values())[ratings.index(max(ratings))]
            if name in files:
                found.append((files[name], emotion))
            else:
                absent.append(name)
    unexpected = sorted(set(absent) - PERHAPS_ABSENT)
    if unexpected:
        raise FileNotFoundError(f"{len(unexpected)} pictures of Mikels' norms are not in {root}: {some(unexpected)}")
    return assemble(root, found, MIKELS, dropped={"absent": absent} if absent else None)
