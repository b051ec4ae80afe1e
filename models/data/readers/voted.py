"""Sets whose label is the raters' majority: Twitter I (You et al., AAAI 2015), Flickr_LDL, Twitter_LDL (Yang et al.,
AAAI 2017), and MART (Yanulevskaya et al., ACM MM 2012), whose paintings have scores.

The layouts are those of the archives, as public loading code reads them.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Literal

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.classes import MIKELS, SENTIMENT, match_class
from fastmmd.models.data.readers.files import (
    assemble,
    by_stem,
    existing,
    files_named,
    find_file,
    home,
    inner,
    list_folder,
    stem,
    unlisted,
)
from fastmmd.models.data.readers.folders import class_folders
from fastmmd.models.data.readers.lists import listed_items
from fastmmd.models.data.readers.tables import columns, each_once, listed_path, number, read_lines, read_table

AGREE = {3: "three", 4: "four", 5: "five"}


def read_twitter1(root: str | Path, agree: Literal[3, 4, 5] = 3) -> ImageDomain:
    """Twitter I: positive and negative photographs of `Agg_AMT_Candidates/`, each judged by five workers.

    The votes are in `amt_result.csv`: name, number of votes, and two counts, of which the header says which is the
    positive one. Without it, the lists of the same subsets are read, `twitter_three_agrees.txt` and so on, in which 1
    is positive; then there are no votes.

    Args:
        root: folder of the data set.
        agree: how many of the five must agree. 3 keeps all images.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, "Agg_AMT_Candidates")
    folder = inner(root, "Agg_AMT_Candidates")
    if not files_named(root, "amt_result.csv"):
        table = find_file(root, f"*{AGREE[agree]}_agree*.txt")
        listed = listed_items(table, SENTIMENT, folder)
        return assemble(folder, listed, SENTIMENT, dropped=unlisted(folder, dict(listed), table.name))
    path = find_file(root, "amt_result.csv")
    _, header, rows = read_table(path)
    places = [[place for place, title in enumerate(header) if word in title.casefold()] for word in ("neg", "pos")]
    if any(len(alike) != 1 for alike in places):
        raise ValueError(f"{path}: expected one column of negative and one of positive votes; found {header}")
    names = [listed_path(row.cells[0], row, folder) for row in rows]
    each_once(zip(names, names, rows, strict=True))
    items, votes, disagreed = [], [], []
    for name, row in zip(names, rows, strict=True):
        counts = [number(row.cells[place], row.where) for (place,) in places]
        if max(counts) >= agree and counts[0] != counts[1]:
            items.append((name, SENTIMENT[counts[1] > counts[0]]))
            votes.append(counts)
        else:
            disagreed.append(name)
    dropped = unlisted(folder, names, path.name)
    if disagreed:
        dropped[f"fewer than {agree} agree"] = disagreed
    return assemble(folder, items, SENTIMENT, votes, SENTIMENT, dropped)


def read_ldl(root: str | Path) -> ImageDomain:
    """Flickr_LDL or Twitter_LDL: `images/` with the votes of 11 or 8 workers in `ground_truth.txt`.

    The table is separated by blanks. Its header begins with `images-name` and names the emotions, not in the order of
    the other sets; columns that name none, such as an empty last one, are passed over. Names may lack the extension.
    The class is the one with most votes, the first in our order among equals; the votes are the domain's.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = home(root, "images", "ground_truth.txt")
    folder = inner(root, "images")
    path = find_file(root, "ground_truth.txt")
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"{path}: expected a header and rows; found an empty file")
    _, *header = lines[0].cells[0].split()
    places = columns([match_class(name, MIKELS) or name for name in header], MIKELS, path)
    listing = list_folder(folder)
    files = by_stem(listing.pictures)
    found, votes = [], []
    for line in lines[1:]:
        name, *cells = line.cells[0].split()
        if len(cells) != len(header):
            raise ValueError(f"{line.where}: expected a name and {len(header)} votes; found {line.cells[0]!r}")
        counts = [number(cells[place], line.where) for place in places]
        found.append((files.get(stem(name), name), MIKELS[counts.index(max(counts))], line))
        votes.append(counts)
    items = each_once(found)
    dropped = listing.dropped([name for name, _ in items], f"not in {path.name}", others=False)
    return assemble(folder, items, MIKELS, votes, MIKELS, dropped)


def read_mart(root: str | Path, threshold: float | None = None) -> ImageDomain:
    """MART: abstract paintings, positive and negative; there is no public archive, so these two layouts are ours.

    `positive/` and `negative/` hold the images; or a csv with the columns `file,score` lies beside them, and an image
    is positive if its score is above the threshold. The scores are then the domain's votes.

    Args:
        root: folder of the data set.
        threshold: of the scores; their median if not given.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    if not any(path.parent == root for path in files_named(root, "*.csv")):
        return class_folders(root, SENTIMENT, split=False).domain(complete=True)
    path = find_file(root, "*.csv")
    _, header, rows = read_table(path)
    name, score = columns(header, ("file", "score"), path)
    scores = [number(row.cells[score], row.where) for row in rows]
    border = median(scores) if threshold is None else threshold
    items = each_once(
        (listed_path(row.cells[name], row, root), SENTIMENT[value > border], row)
        for row, value in zip(rows, scores, strict=True)
    )
    dropped = unlisted(root, [name for name, _ in items], path.name)
    return assemble(root, items, SENTIMENT, [[value] for value in scores], ("score",), dropped)
