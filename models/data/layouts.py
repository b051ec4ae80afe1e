"""Writers of the layouts that `readers` read: pictures go in, a data set as distributed comes out.

They serve to write generated pictures where the real readers can be run on them. Each returns the folder that its
reader takes. The oddities of a layout that do not change (single quotes, `sad`, disagree before agree, picture numbers
as floats) are always written; those that come and go are arguments, or the three functions at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fastmmd.models.data.readers.classes import ALIASES, EKMAN, MIKELS, SENTIMENT
from fastmmd.models.data.readers.mikels import NORMS
from fastmmd.models.data.readers.webemo import FINE, LISTS
from fastmmd.models.files import write_atomically

# The order of EmoSet's info.json and of the LDL tables.
EMOSET_ORDER = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")


class Picture(NamedTuple):
    """A picture to write. Each writer says what it takes as `votes`."""

    label: str
    image: Image.Image
    votes: Sequence[float] = ()


def save(image: Image.Image, path: Path) -> None:
    """Writes an image file of the path's format, JPEG or PNG; PNG's bytes go under any name if JPEG lacks the mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fits = path.suffix.lower() in (".jpg", ".jpeg") and image.mode in ("L", "RGB", "CMYK")
    image.save(path, format="JPEG" if fits else "PNG")


def write_folders(root: Path, pictures: Iterable[Picture], extension: str = ".jpg") -> Path:
    """`<class>/<class>_00001.jpg`: image folders, FI without votes or a part of it, sorted IAPS, MART, Office, VisDA.

    Args:
        extension: of all files.
    """
    for number, picture in enumerate(pictures, 1):
        save(picture.image, root / picture.label / f"{picture.label}_{number:05}{extension}")
    return root


def write_artphoto(root: Path, pictures: Iterable[Picture]) -> Path:
    """`testImages_artphoto/<class>_0001.jpg`, with `sad` for sadness."""
    for number, (label, image, _) in enumerate(pictures, 1):
        name = "sad" if label == "sadness" else label
        save(image, root / "testImages_artphoto" / f"{name}_{number:04}.jpg")
    return root


def write_abstract(root: Path, pictures: Iterable[Picture], newline: str = "\n") -> Path:
    """`testImages_abstract/` with its vote table; votes: counts of the eight classes in order."""
    short = {name: alias for alias, name in ALIASES.items()}
    titles = ["", *(short.get(name, name).capitalize() for name in MIKELS)]
    rows: list[list[object]] = [[f"'{title}'" for title in titles]]
    folder = root / "testImages_abstract"
    for number, (_, image, votes) in enumerate(pictures, 1):
        name = f"abstract_{number:04}.jpg"
        save(image, folder / name)
        rows.append([f"'{name}'", *votes])
    _table(folder / "ABSTRACT_groundTruth.csv", rows, newline=newline)
    return root


def write_iaps(root: Path, pictures: Iterable[Picture], first: int = 1040) -> Path:
    """Pictures `1040.jpg`, `1040.1.jpg`, `1041.jpg`, ... with Mikels' two norm tables.

    Args:
        first: number of the first picture.
    """
    rows = {sign: [["Desc", "Picture", *means]] for sign, means in NORMS.items()}
    for index, (label, image, _) in enumerate(pictures):
        number = first + index // 2 + 0.1 * (index % 2)
        save(image, root / f"{number:g}.jpg")
        for sign, means in NORMS.items():
            if label in means.values():
                rows[sign].append(
                    [label, f"{number:.1f}", *(5.5 if name == label else 2.25 for name in means.values())]
                )
    for sign, table in rows.items():
        _table(root / f"Mikels2005{sign}norms.csv", table)
    return root


def write_fi(root: Path, pictures: Iterable[Picture]) -> Path:
    """FI as its authors publish it: `emotion_dataset/<class>/` and `agg/<class>_1st_1000.csv`; votes: disagree, agree.

    Equal images become byte-identical files, as the services' placeholders are.
    """
    rows: dict[str, list[list[object]]] = {name: [] for name in MIKELS}
    for number, (label, image, (disagree, agree)) in enumerate(pictures, 1):
        name = f"{1000 + number}_{number:05x}_b.jpg"
        save(image, root / "emotion_dataset" / label / name)
        rows[label].append([number, f"https://farm4.staticflickr.com/3234/{name}", disagree, agree])
    for label, table in rows.items():
        _table(root / "agg" / f"{label}_1st_1000.csv", table)
    return root


def write_csv(root: Path, pictures: Iterable[Picture], table: str = "labels.csv", delimiter: str = ",") -> Path:
    """`images/00001.jpg`, ... and a table with the columns `image_name,emotion`."""
    rows = [["image_name", "emotion"]]
    for number, (label, image, _) in enumerate(pictures, 1):
        save(image, root / "images" / f"{number:05}.jpg")
        rows.append([f"images/{number:05}.jpg", label])
    _table(root / table, rows, delimiter)
    return root


def write_image_list(
    root: Path, folder: str, pictures: Iterable[Picture], classes: Sequence[str], label_offset: int = 0
) -> Path:
    """`<folder>/<class>/...` with `<folder>.txt`, whose lines are `path label`: Office, VisDA, PACS, DomainNet.

    Args:
        folder: name of the domain; may hold a blank.
        classes: in the order of the labels.
        label_offset: the first label.
    """
    lines = []
    for number, (label, image, _) in enumerate(pictures, 1):
        name = f"{folder}/{label}/{number:05}.jpg"
        save(image, root / name)
        lines.append([f"{name} {classes.index(label) + label_offset}"])
    _table(root / f"{folder}.txt", lines)
    return root


def write_emotion6(root: Path, pictures: Iterable[Picture], test: Iterable[Picture] = ()) -> Path:
    """Emotion6, or EmotionROI if there are `test` pictures; votes: shares of the six emotions and neutral."""
    shares = [f"[prob. of {name}]" for name in (*EKMAN, "neutral")]
    rows: list[list[object]] = [["[image_filename]", "[valence]", "[arousal]", *shares]]
    lists: dict[str, list[list[object]]] = {"training.txt": [], "testing.txt": []}
    for table, part in zip(lists, (pictures, test), strict=True):
        for label, image, votes in part:
            name = f"{label}/{len(rows)}.jpg"
            save(image, root / "images" / name)
            rows.append([name, 4.5, 5.25, *votes])
            lists[table].append([name])
    _table(root / "ground_truth.txt", rows, "\t")
    if lists["testing.txt"]:
        for table, lines in lists.items():
            _table(root / table, lines)
    return root


def write_emoset(root: Path, parts: Mapping[str, Iterable[Picture]], with_ids: bool = False) -> Path:
    """EmoSet-118K.

    Args:
        parts: pictures of "train", "val" and "test".
        with_ids: whether the rows have four items, as in the README, and not three, as in the archive.
    """
    numbers = dict.fromkeys(MIKELS, 0)
    for part, pictures in parts.items():
        rows = []
        for label, image, _ in pictures:
            numbers[label] += 1
            name = f"{label}/{label}_{numbers[label]:05}"
            save(image, root / "image" / f"{name}.jpg")
            with write_atomically(root / "annotation" / f"{name}.json") as file:
                json.dump({"image_id": name.split("/")[1], "emotion": label, "brightness": 0.5}, file)
            ids = [name.split("/")[1]] if with_ids else []
            rows.append([label, *ids, f"image/{name}.jpg", f"annotation/{name}.json"])
        with write_atomically(root / f"{part}.json") as file:
            json.dump(rows, file)
    with write_atomically(root / "info.json") as file:
        json.dump({"emotion": {"label2idx": {name: index for index, name in enumerate(EMOSET_ORDER)}}}, file)
    return root


def write_twitter1(root: Path, pictures: Iterable[Picture], columns: Sequence[str] = ("positive", "negative")) -> Path:
    """Twitter I with `amt_result.csv`, and the lists of its subsets in `lists/`; votes: negative, positive.

    Args:
        columns: order of the two counts in the table.
    """
    rows: list[list[object]] = [["image_name", "num_of_votes", *(f"num_of_{name}" for name in columns)]]
    lists: dict[str, list[list[object]]] = {"three": [], "four": [], "five": []}
    for number, (label, image, votes) in enumerate(pictures, 1):
        name = f"{number:04}.jpg"
        save(image, root / "Agg_AMT_Candidates" / name)
        rows.append([name, int(sum(votes)), *(votes[SENTIMENT.index(column)] for column in columns)])
        for least, lines in zip((3, 4, 5), lists.values(), strict=True):
            if max(votes) >= least:
                lines.append([f"{name} {SENTIMENT.index(label)}"])
    _table(root / "amt_result.csv", rows)
    for word, lines in lists.items():
        _table(root / "lists" / f"twitter_{word}_agrees.txt", lines)
    return root


def write_ldl(root: Path, pictures: Iterable[Picture]) -> Path:
    """Flickr_LDL or Twitter_LDL; votes: counts of the eight classes in order. Every line ends with a blank."""
    rows: list[list[object]] = [["images-name", *(name.capitalize() for name in EMOSET_ORDER), ""]]
    for number, (_, image, votes) in enumerate(pictures, 1):
        save(image, root / "images" / f"{number}.jpg")
        rows.append([f"{number}.jpg", *(votes[MIKELS.index(name)] for name in EMOSET_ORDER), ""])
    _table(root / "ground_truth.txt", rows, " ")
    return root


def write_mart(root: Path, pictures: Iterable[Picture]) -> Path:
    """MART with `scores.csv`, `file,score`; votes: the score. Without scores `write_folders` is the other layout."""
    rows: list[list[object]] = [["file", "score"]]
    for number, (_, image, (score,)) in enumerate(pictures, 1):
        save(image, root / f"{number:03}.jpg")
        rows.append([f"{number:03}.jpg", score])
    _table(root / "scores.csv", rows)
    return root


def write_webemo(root: Path, parts: Mapping[str, Iterable[Picture]]) -> Path:
    """WEBEmo's lists `train25.txt` and `test25.txt`, and pictures `<part>/<number>/<last part of the address>`.

    Args:
        parts: pictures of "train" and "test", of the 25 classes.
    """
    count = 0
    for part, pictures in parts.items():
        lines = []
        for label, image, _ in pictures:
            count += 1
            number, name = FINE.index(label), f"220_F_{count:08}_x.jpg"
            save(image, root / part / str(number) / name)
            lines.append([f"https://as2.ftcdn.net/jpg/00/42/{name} {number}"])
        _table(root / LISTS[part], lines)
    return root


def litter(folder: Path) -> None:
    """Puts into a folder what lies beside the images of real archives."""
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "._amusement_0001.jpg").write_bytes(b"\0\5\26\7")
    (folder / "ReadMe.rtf").write_text(r"{\rtf1 Read me}")
    (folder / "__MACOSX").mkdir(exist_ok=True)
    (folder / "__MACOSX" / "amusement_0002.jpg").write_bytes(b"\0\5\26\7")


def truncate(path: Path) -> None:
    """Cuts an image file off in the middle, as an interrupted download does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def upper_case(path: Path) -> Path:
    """Gives an image file an extension in capitals."""
    return path.rename(path.with_suffix(path.suffix.upper()))


def _table(path: Path, rows: Iterable[Sequence[object]], delimiter: str = ",", newline: str = "\n") -> None:
    # Not the csv module: it would quote what the real tables do not, and the reverse.
    with write_atomically(path) as file:
        file.writelines(delimiter.join(map(str, row)) + newline for row in rows)
