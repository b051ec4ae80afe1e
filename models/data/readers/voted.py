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
    columns,
    existing,
    files_named,
    find_file,
    folder_items,
    images,
    inner,
    number,
    read_lines,
    read_table,
    stem,
)
from fastmmd.models.data.readers.lists import listed_items

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
    root = existing(root)
    folder = inner(root, "Agg_AMT_Candidates")
    if not files_named(root, "amt_result.csv"):
        return assemble(folder, listed_items(find_file(root, f"*{AGREE[agree]}_agree*.txt"), SENTIMENT), SENTIMENT)
    path = find_file(root, "amt_result.csv")
    header, *rows = read_table(path)
    places = [[place for place, title in enumerate(header) if word in title.casefold()] for word in ("neg", "pos")]
    if any(len(found) != 1 for found in places):
        raise ValueError(f"{path}: expected one column of negative and one of positive votes; found {header}")
    items, votes, dropped = [], [], []
    for row in rows:
        counts = [number(row[place], path) for (place,) in places]
        if max(counts) >= agree and counts[0] != counts[1]:
            items.append((row[0], SENTIMENT[counts[1] > counts[0]]))
            votes.append(counts)
        else:
            dropped.append(row[0])
    reason = f"fewer than {agree} agree"
    return assemble(folder, items, SENTIMENT, votes, SENTIMENT, {reason: dropped} if dropped else None)


def read_ldl(root: str | Path) -> ImageDomain:
    """Flickr_LDL or Twitter_LDL: `images/` with the votes of 11 or 8 workers in `ground_truth.txt`.

    The table is separated by blanks. Its header begins with `images-name` and names the emotions, not in the order of
    the other sets; columns that name none, such as an empty last one, are passed over. Names may lack the extension.
    The class is the one with most votes, the first in our order among equals; the votes are the domain's.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    root = existing(root)
    folder = inner(root, "images")
    path = find_file(root, "ground_truth.txt")
    (_, *header), *rows = [line.split() for line in read_lines(path)]
    places = columns([match_class(name, MIKELS) or name for name in header], MIKELS, path)
    files = by_stem(images(folder))
    items, votes = [], []
    for name, *cells in rows:
        counts = [number(cells[place], path) for place in places]
        items.append((files.get(stem(name), name), MIKELS[counts.index(max(counts))]))
        votes.append(counts)
    return assemble(folder, items, MIKELS, votes, MIKELS)


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
    tables = sorted(root.glob("*.csv"))
    if not tables:
        return assemble(root, folder_items(root, "", SENTIMENT), SENTIMENT)
    path = tables[0]
    header, *rows = read_table(path)
    name, score = columns(header, ("file", "score"), path)
    scores = [number(row[score], path) for row in rows]
    border = median(scores) if threshold is None else threshold
    items = [(row[name], SENTIMENT[value > border]) for row, value in zip(rows, scores, strict=True)]
    return assemble(root, items, SENTIMENT, [[value] for value in scores], ("score",))
