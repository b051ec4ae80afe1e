"""The small sets with Mikels' emotions: ArtPhoto and Abstract (Machajdik & Hanbury 2010), IAPS-Subset (Mikels 2005).

The layouts are those of the archives at imageemotion.org and of the norm tables published with Mikels' paper.
"""

from __future__ import annotations

from pathlib import Path

from fastmmd.models.data.domain import ImageDomain, some
from fastmmd.models.data.readers.classes import MIKELS, class_of, match_class
from fastmmd.models.data.readers.files import (
    ABSENT,
    assemble,
    by_stem,
    existing,
    files_named,
    find_file,
    home,
    inner,
    list_folder,
    not_found,
    stem,
)
from fastmmd.models.data.readers.folders import class_folders
from fastmmd.models.data.readers.tables import columns, each_once, number, read_table

NORMS = {
    "positive": {"AmusMean": "amusement", "AweMean": "awe", "ContMean": "contentment", "ExciMean": "excitement"},
    "negative": {"AngrMean": "anger", "DisgMean": "disgust", "FearMean": "fear", "SadnMean": "sadness"},
}
ARTPHOTO, ABSTRACT = "testImages_artphoto", "testImages_abstract"
ABSTRACT_TABLE = "ABSTRACT_groundTruth.csv"
IN_SUBFOLDERS = "in a folder below that of the pictures"
# In the norms, but not in every copy of IAPS.
PERHAPS_ABSENT = {"2819"}


def read_artphoto(root: str | Path) -> ImageDomain:
    """ArtPhoto: `<class>_NNNN.jpg` in one folder, `testImages_artphoto/` or the root, 806 images; or `<class>/*.jpg`.

    The class is what stands before the first "_", and sadness is called `sad`. `ReadMe.rtf` and `.DS_Store` lie
    beside; extensions are in any case.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    folder = inner(home(root, ARTPHOTO), ARTPHOTO)
    listing = list_folder(folder)
    names = [name for name in listing.pictures if "/" not in name]
    if not names:
        if listing.pictures:
            return class_folders(folder, MIKELS, split=False).domain(complete=True)
        raise not_found("<class>_NNNN.jpg", folder)
    items = [(name, class_of(name.split("_")[0], MIKELS, f"{folder}/{name}")) for name in names]
    return assemble(folder, items, MIKELS, dropped=listing.dropped(names, IN_SUBFOLDERS, others=False))


def read_abstract(root: str | Path) -> ImageDomain:
    """Abstract: 280 paintings with about 14 votes each; the class is the one with most votes, and ties are dropped (228
    remain).

    `testImages_abstract/` (or the root) holds the images, and it or the root `ABSTRACT_groundTruth.csv`, in which names
    and header stand in single quotes, contentment is `Content`, sadness `Sad`, and lines may end as on Windows. The
    domain's votes are the counts of the classes in their order. Without the table, `<class>/*.jpg` is read, without
    votes.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, ABSTRACT, ABSTRACT_TABLE)
    folder = inner(root, ABSTRACT)
    listing = list_folder(folder)
    if not files_named(root, ABSTRACT_TABLE) and any("/" in name for name in listing.pictures):
        return class_folders(folder, MIKELS, split=False).domain(complete=True)
    path = find_file(root, ABSTRACT_TABLE)
    _, header, rows = read_table(path)
    places = columns([match_class(name, MIKELS) or name for name in header], MIKELS, path)
    files = by_stem(name for name in listing.pictures if "/" not in name)
    names = [files.get(stem(row.cells[0]), row.cells[0]) for row in rows]
    each_once(zip(names, names, rows, strict=True))
    items, votes, tied = [], [], []
    for name, row in zip(names, rows, strict=True):
        ordered = [number(row.cells[place], row.where) for place in places]
        if ordered.count(max(ordered)) > 1:
            tied.append(name)
        else:
            items.append((name, MIKELS[ordered.index(max(ordered))]))
            votes.append(ordered)
    dropped = listing.dropped(names, f"not in {path.name}", others=False)
    return assemble(folder, items, MIKELS, votes, MIKELS, {**dropped, **({"tied votes": tied} if tied else {})})


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
    listing = list_folder(root)
    if not files_named(root, "Mikels2005*norms.csv"):
        if not any("/" in name for name in listing.pictures):
            raise not_found("Mikels2005positivenorms.csv and Mikels2005negativenorms.csv, or <class>/*.jpg,", root)
        return class_folders(root, MIKELS, split=False).domain(complete=True)
    files = by_stem(listing.pictures)
    found, absent = [], []
    for sign, emotions in NORMS.items():
        path = find_file(root, f"Mikels2005{sign}norms.csv")
        _, header, rows = read_table(path)
        picture, *means = columns(header, ["Picture", *emotions], path)
        for row in rows:
            name = f"{number(row.cells[picture], row.where):g}"
            ratings = [number(row.cells[place], row.where) for place in means]
            emotion = list(emotions.values())[ratings.index(max(ratings))]
            if name in files:
                found.append((files[name], emotion, row))
            else:
                absent.append(name)
    unexpected = sorted(set(absent) - PERHAPS_ABSENT)
    if unexpected:
        raise FileNotFoundError(f"{len(unexpected)} pictures of Mikels' norms are not in {root}: {some(unexpected)}")
    items = each_once(found)
    dropped = listing.dropped([name for name, _ in items], "not in Mikels' norms", others=False)
    return assemble(root, items, MIKELS, dropped={**dropped, **({ABSENT: absent} if absent else {})})
