"""Data sets as the Hugging Face hub has them: parquet files, or what the package `datasets` has saved.

So are EmoSet-118K and EmoVerse distributed there. Only files on this disk are read; nothing is downloaded.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fastmmd.models.data.domain import PARTS, UNLABELLED, ImageDomain, some
from fastmmd.models.data.readers.classes import EKMAN, MIKELS, SENTIMENT, match_class
from fastmmd.models.data.readers.files import is_junk, not_found
from fastmmd.models.data.readers.folders import PART_NAMES, Part

if TYPE_CHECKING:
    import datasets

# Columns of labels that are no `ClassLabel`. EmoVerse's is the last.
LABEL_COLUMNS = ("label", "emotion", "emotion_category")
# The part of files and folders whose names say nothing of it.
WHOLE = "data"
SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(-\w+)?\.parquet")


class HubDomain(ImageDomain):
    """An `ImageDomain` whose pictures lie encoded in tables.

    Args:
        tables: part -> rows, with a column of pictures: encoded bytes, or a struct of `bytes` and `path`.
        column: name of that column.
        rows: name of each image -> its part and row.
        sizes: name of each image -> bytes of its encoded picture.
        changed: when the tables' files were last changed, in ns.
        arguments: those of `ImageDomain`.
    """

    def __init__(
        self,
        *arguments: Any,
        tables: Mapping[str, datasets.Dataset],
        column: str,
        rows: Mapping[str, tuple[str, int]],
        sizes: Mapping[str, int],
        changed: int,
        **more: Any,
    ) -> None:
        self.tables = {part: table.with_format("arrow") for part, table in tables.items()}
        self.column = column
        self.rows = rows
        self.sizes = sizes
        self.changed = changed
        super().__init__(*arguments, **more)

    def location(self, item: int) -> str:
        part, row = self.rows[self.names[item]]
        return f"{self.names[item]} (row {row} of {part!r} in {self.root})"

    def content(self, item: int) -> bytes:
        part, row = self.rows[self.names[item]]
        cell = self.tables[part][row].column(self.column)[0].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if content is not None:
            return content
        path = cell.get("path") if isinstance(cell, dict) else None
        if path is None:
            raise ValueError("the row has no picture")
        return (self.root / path).read_bytes()

    def stamp(self, item: int) -> tuple[int, int]:
        return self.sizes[self.names[item]], self.changed


def read_hub(
    root: str | Path,
    part: Part | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageDomain:
    """A data set of the Hugging Face hub that lies on this disk.

    `root` is a parquet file; or a folder with such files, of which names or folders tell the part
    (`data/train-00000-of-00004.parquet`, `test/0000.parquet`); or a folder that `Dataset.save_to_disk` or
    `DatasetDict.save_to_disk` has written. Parquet files are converted once by the package `datasets`, in its cache
    (`HF_DATASETS_CACHE`), which takes the space of pictures and labels again.

    Classes with the names of Mikels' or Ekman's emotions, or negative and positive, are in the project's order and
    spelling, whatever the files'; others are in the order of their `ClassLabel`, or sorted where labels are text. An
    image is called `<part>/<name of its file>` if the files say so of all images and no two are the same, else
    `<part>/<number of its row>`.

    Args:
        root: file or folder.
        part: "train", "val" or "test" reads this part alone, "all" all as one set; None all, each image with its part
            in `ImageDomain.parts`, if there are several.
        image_column: the column of the pictures; if not given, the one of type `Image`, else the one that holds bytes.
        label_column: the column of the labels; if not given, the one of type `ClassLabel`, else the one that is called
            "label", "emotion" or "emotion_category".
        classes: names of the classes where labels are plain integers, in their order.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        FileNotFoundError: no such file or folder, nothing in it that fits, or numbered files that are incomplete.
        ValueError: no such part; no column that fits, or several, which the error lists; labels that `classes` do not
            name; some rows without a label; files of a part whose classes differ; a part without rows; parquet files
            beside a saved set; a file that cannot be read.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no folder or file {root}; data sets are read from disk and never downloaded")
    if find_spec("datasets") is None:
        raise ModuleNotFoundError("data sets of the Hugging Face hub take the package datasets: pip install datasets")
    saved = _saved(root)
    if saved and (others := sorted(root.rglob("*.parquet"))):
        raise ValueError(
            f"{root} has been saved by the package datasets, and holds {others[0]} beside; keep one of them"
        )
    sources = dict(sorted((saved or _parquet(root)).items(), key=lambda one: _rank(one[0])))
    features = {name: _features(files) for name, files in sources.items()}
    image, label = _columns(features, image_column, label_column, root)
    for files in sources.values():
        _same_labels(files, label)
    tables = {name: _table(files, [image, label]) for name, files in sources.items()}
    order, labels = _labels(tables, label, classes, root)

    chosen = {name: table for name, table in tables.items() if part in (None, "all", PART_NAMES.get(name))}
    if not chosen:
        raise ValueError(f"part: expected one of {', '.join(tables)}, which {root} has, all or none; got {part!r}")
    rows: dict[str, tuple[str, int]] = {}
    sizes: list[int] = []
    for name, table in chosen.items():
        names, lengths = _pictures(table, image)
        rows |= {f"{name}/{picture}": (name, row) for row, picture in enumerate(names)}
        sizes += lengths
    return HubDomain(
        root,
        list(rows),
        [label for name in chosen for label in labels[name]],
        order,
        parts=_parts(rows, root) if part is None else None,
        tables=chosen,
        column=image,
        rows=rows,
        sizes=dict(zip(rows, sizes, strict=True)),
        changed=max(file.stat().st_mtime_ns for files in sources.values() for file in files),
    )


def _saved(root: Path) -> dict[str, list[Path]]:
    """Part -> files of a folder that the package `datasets` has saved; empty if it has not."""
    if (root / "dataset_dict.json").is_file():
        parts = _json(root / "dataset_dict.json")["splits"]
        folders = {name: root / name for name in parts}
    elif (root / "state.json").is_file():
        folders = {WHOLE: root}
    else:
        return {}
    found = {}
    for name, folder in folders.items():
        if not (folder / "state.json").is_file():
            raise not_found("state.json", folder)
        state = _json(folder / "state.json")
        found[name] = [folder / file["filename"] for file in state["_data_files"]]
        if absent := [file.name for file in found[name] if not file.is_file()]:
            raise FileNotFoundError(f"{folder}: files are missing: {some(absent)}")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, save the data set again: {error}") from error


def _parquet(root: Path) -> dict[str, list[Path]]:
    """Part -> parquet files of a folder and its subfolders, or the one file."""
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    files = [file for file in files if not any(map(is_junk, file.relative_to(root).parts))]
    if not files:
        raise not_found("parquet files, or a folder that the package datasets has saved", root)
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        found[_part_of(file, root)].append(file)
    if len(found) > 1 and WHOLE in found:
        unknown = some([file.name for file in found[WHOLE]])
        raise ValueError(f"{root}: names and folders do not tell of which part these are: {unknown}")
    for part, group in found.items():
        folders = {str(file.parent) for file in group}
        if len(folders) > 1:
            raise ValueError(f"{root}: part {part!r} is in several folders, give one of them: {some(sorted(folders))}")
        _complete(group)
    return dict(found)


def _part_of(file: Path, root: Path) -> str:
    """The part that a file's name begins with, or that a folder of it is called."""
    begin = re.split(r"[-_.]", file.name)[0].lower()
    folders = [] if file == root else [name.lower() for name in file.relative_to(root).parts[-2::-1]]
    return next((name for name in (begin, *folders) if name in PART_NAMES), WHOLE)


def _rank(part: str) -> int:
    """Place of a part among all: train, val, test, others."""
    return PARTS.index(PART_NAMES[part]) if part in PART_NAMES else len(PARTS)


def _complete(files: Sequence[Path]) -> None:
    """Raises ValueError or FileNotFoundError unless these are whole parquet files, and all of a numbered set."""
    sets: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file in files:
        with open(file, "rb") as content:
            begin = content.read(16)
            content.seek(max(file.stat().st_size - 4, 0))
            end = content.read()
        if begin.startswith(b"version https"):
            raise ValueError(f"{file} is a pointer of Git LFS, not the data: fetch them with git lfs pull")
        if not begin.startswith(b"PAR1") or end != b"PAR1":
            raise ValueError(f"{file} is not a whole parquet file")
        if shard := SHARD.fullmatch(file.name):
            sets[shard["name"]][shard["count"]].add(shard["number"])
    for name, counts in sets.items():
        if len(counts) > 1:
            raise ValueError(f"{files[0].parent}: {name} is there in {' and in '.join(sorted(counts))} files; keep one")
        for count, numbers in counts.items():
            wanted = {f"{number:05d}" for number in range(int(count))}
            if absent := [f"{name}-{number}-of-{count}.parquet" for number in sorted(wanted - numbers)]:
                raise FileNotFoundError(f"{files[0].parent}: files are missing: {some(absent)}")


def _features(files: Sequence[Path]) -> datasets.Features:
    """Column -> type of a part."""
    import datasets
    import pyarrow.parquet

    if files[0].suffix == ".arrow":
        try:
            return datasets.load_from_disk(str(files[0].parent)).features
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{files[0].parent} is damaged, save the data set again: {error}") from error
    return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(files[0]))


def _same_labels(files: Sequence[Path], column: str) -> None:
    """Raises ValueError unless a number means the same class in all files of a part, whose types are the first's."""
    kinds = {file: _features([file]).get(column) for file in files if file.suffix == ".parquet"}
    # Whole numbers of different widths mean the same.
    told = {file: getattr(kind, "names", None) or _type(kind).rstrip("0123456789") for file, kind in kinds.items()}
    for file, kind in told.items():
        if kind != told[files[0]]:
            raise ValueError(
                f"labels in column {column!r} are {told[files[0]]} in {files[0]}, but {kind} in {file}: give one of "
                "the files, or write them anew with the same classes"
            )


def _table(files: Sequence[Path], columns: list[str]) -> datasets.Dataset:
    """These columns of a part, on disk.

    Raises:
        ValueError: it has no rows.
    """
    import datasets
    import pyarrow.parquet

    if files[0].suffix == ".arrow":
        return datasets.load_from_disk(str(files[0].parent)).select_columns(columns)
    if not any(pyarrow.parquet.read_metadata(file).num_rows for file in files):
        raise ValueError(f"{files[0]} has no rows; remove it, or give another `part`'s file as root")
    return datasets.Dataset.from_parquet([str(file) for file in files], columns=columns)


def _columns(
    features: Mapping[str, datasets.Features], image: str | None, label: str | None, root: Path
) -> tuple[str, str]:
    """The columns of pictures and of labels, which all parts must have."""
    import datasets

    first, *others = features.values()

    def chosen(argument: str, given: str | None, *choices: list[str]) -> str:
        """What is given, if it is in one of the choices; else the only one of the first choice that is not empty."""
        listed = ", ".join(f"{name} ({_type(feature)})" for name, feature in first.items())
        if given is not None:
            if not any(given in choice for choice in choices):
                raise ValueError(f"{argument}: {given!r} is none in {root}; its columns are {listed}")
            return given
        candidates = next(filter(None, choices), [])
        if len(candidates) != 1:
            several = f"several may be meant ({', '.join(candidates)})" if candidates else "none is found"
            raise ValueError(f"{argument}: {several} in {root}; give one of its columns: {listed}")
        return candidates[0]

    pictures = [name for name, feature in first.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in first.items() if _type(feature) in ("struct of bytes", "binary")]
    named = [name for name, feature in first.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in first.items() if _type(feature).startswith(("string", "int", "uint"))]
    image = chosen("image_column", image, pictures, encoded)
    usual = [name for name in plain if name.lower() in LABEL_COLUMNS]
    label = chosen("label_column", label, named, usual, *([plain] if label is not None else []))
    for name in (image, label):
        if not all(name in other for other in others):
            raise ValueError(f"{root}: not all parts ({', '.join(features)}) have the column {name!r}")
    return image, label


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return "struct of bytes" if "bytes" in feature else "struct"
    kind = type(feature).__name__
    dtype = str(getattr(feature, "dtype", ""))
    return dtype.removeprefix("large_") if kind == "Value" else kind


def _labels(
    tables: Mapping[str, datasets.Dataset], column: str, classes: Sequence[str] | None, root: Path
) -> tuple[list[str], dict[str, list[int]]]:
    """Classes in label order, and part -> the label of each row. The classes are those of all parts."""
    import datasets

    texts: dict[str, list[str | None]] = {}
    known: list[str] = []
    named = True
    for part, table in tables.items():
        feature = table.features[column]
        values = table.with_format("arrow")[:].column(column).to_pylist() if len(table) else []
        names = feature.names if isinstance(feature, datasets.ClassLabel) else classes
        if not isinstance(feature, datasets.ClassLabel) and feature.dtype.startswith(("int", "uint")):
            if classes is None:
                raise ValueError(f"classes: the labels in column {column!r} of {root} are numbers; name them in order")
        elif classes is not None:
            raise ValueError(f"classes: the labels in column {column!r} of {root} have names; give none")
        if names is None:
            named = False
            texts[part] = [(value or "").strip() or None for value in values]
            known += sorted({text for text in texts[part] if text is not None})
        else:
            outside = sorted({value for value in values if value is not None and not -1 <= value < len(names)})
            if outside:
                raise ValueError(f"{root}: labels {outside} in column {column!r} for the classes {list(names)}")
            texts[part] = [None if value in (None, -1) else names[value] for value in values]
            known += names
        unlabelled = texts[part].count(None)
        if 0 < unlabelled < len(texts[part]):
            row = texts[part].index(None)
            raise ValueError(
                f"{root}: {unlabelled} of {len(texts[part])} rows of part {part!r} have no label in column {column!r}, "
                f"such as row {row}"
            )
    known = list(dict.fromkeys(known)) if named else sorted(set(known))
    spelling = {name: name for name in known}
    for emotions in (MIKELS, EKMAN, SENTIMENT):
        matched = {name: match_class(name, emotions) for name in known}
        if None not in matched.values():
            spelling = matched
            known = [name for name in emotions if name in matched.values()]
            break
    label = {name: known.index(spelled) for name, spelled in spelling.items()} | {None: UNLABELLED}
    return known, {part: [label[text] for text in values] for part, values in texts.items()}


def _pictures(table: datasets.Dataset, column: str) -> tuple[list[str], list[int]]:
    """Names of a part's pictures, and the bytes of each."""
    import pyarrow
    import pyarrow.compute

    cells = table.with_format("arrow")[:].column(column)
    content, paths = cells, [None] * len(cells)
    if pyarrow.types.is_struct(cells.type):
        content = pyarrow.compute.struct_field(cells, "bytes")
        if cells.type.get_field_index("path") >= 0:
            paths = pyarrow.compute.struct_field(cells, "path").to_pylist()
    sizes = pyarrow.compute.binary_length(content).fill_null(0).to_pylist()
    names = [PurePosixPath((path or "").replace("\\", "/")).name for path in paths]
    if "" in names or len(set(names)) < len(names):
        names = [f"{row:06d}" for row in range(len(names))]
    return names, sizes


def _parts(rows: Mapping[str, tuple[str, int]], root: Path) -> list[str] | None:
    """The part of each image by our names; None if the data set is not divided, or into other parts than these."""
    names = list(dict.fromkeys(part for part, _ in rows.values()))
    others = [name for name in names if name not in PART_NAMES]
    if len(names) == 1 or len(others) == len(names):
        return None
    if others:
        known = [name for name in names if name in PART_NAMES]
        raise ValueError(f"part: {root} has {some(known)}, and beside them {some(others)}; choose one, or all")
    return [PART_NAMES[part] for part, _ in rows.values()]
