"""Tables and lists of text: decoded, cut into rows, each of which says in errors where it stands."""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from fastmmd.models.data.domain import some
from fastmmd.models.data.readers.files import not_found

Label = TypeVar("Label")
# Byte-order marks; UTF-32's little-endian one begins as UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Row(NamedTuple):
    """A row of a table, or a line of a list.

    Args:
        cells: without blanks and quotes around.
        path: the file.
        line: number of its line, from 1; the last one of a row that has several.
    """

    cells: list[str]
    path: Path
    line: int

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}, line {self.line}"


class Table(NamedTuple):
    """A table's header and its rows, all as long as the header."""

    path: Path
    header: list[str]
    rows: list[Row]


def read_text(path: Path, encoding: str | None = None) -> str:
    """A file's text with "\\n" between its lines.

    Without `encoding`: UTF-8, UTF-16 (with a mark, or where every other byte is 0), UTF-32 with a mark, else
    Windows-1252 with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it isn't text of this encoding; the error names the file and the place.
    """
    if not path.is_file():
        raise not_found(path.name, path.parent)
    content = path.read_bytes()
    used = encoding or _encoding(content)
    try:
        text = content.decode(used or "utf-8")
    except LookupError:
        raise ValueError(f"{path}: encoding: there is none called {used!r}") from None
    except UnicodeDecodeError as error:
        if used is not None:
            line = content[: error.start].count(b"\n") + 1
            raise ValueError(f"{path}, line {line}: not {used}: {error.reason}; give its encoding") from None
        text = content.decode("cp1252", "replace")
        warnings.warn(f"{path} is not UTF-8; read as Windows-1252: give its encoding if it is another", stacklevel=4)
    if "\0" in text:
        raise ValueError(f"{path}: not a table of text, it holds bytes of 0; give its encoding if it is text")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _encoding(content: bytes) -> str | None:
    """The encoding that the first bytes tell, None for UTF-8."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    start = content[:4096]
    # In UTF-16, the letters of tables have a zero byte: the second if little-endian, the first if big-endian.
    zeros = start[0::2].count(0), start[1::2].count(0)
    most = len(start) // 2
    if most and zeros[1] > most / 2 and zeros[0] == 0:
        return "utf-16-le"
    if most and zeros[0] > most / 2 and zeros[1] == 0:
        return "utf-16-be"
    return None


def read_rows(path: Path, delimiter: str | None = None, encoding: str | None = None) -> list[Row]:
    """Rows of a table of text, the header if any among them, without empty rows.

    Cells lose blanks and quotes of either kind; line ends may be of any system.

    Args:
        delimiter: between cells; if not given, the comma, semicolon or tab that the first line has most of.

    Raises:
        FileNotFoundError, ValueError: as `read_text`, or a quote that isn't closed.
    """
    text = read_text(path, encoding)
    first = next((line for line in text.split("\n") if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or max(",;\t", key=first.count))
    rows = []
    before = 0
    try:
        for cells in reader:
            if any("\n" in cell for cell in cells):  # all to the next quote, perhaps the rest of the file, in one cell
                raise ValueError(
                    f"{path}, line {before + 1}: a quote is not closed, or a cell has several lines; close it, or take "
                    "the line breaks out of the table's cells"
                )
            row = Row([cell.strip().strip("'\"").strip() for cell in cells], path, reader.line_num)
            before = reader.line_num
            if any(row.cells):
                rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    return rows


def read_table(path: Path, delimiter: str | None = None, encoding: str | None = None) -> Table:
    """A table with a header.

    Raises:
        FileNotFoundError, ValueError: as `read_rows`, no rows, or one that is shorter or longer than the header.
    """
    rows = read_rows(path, delimiter, encoding)
    if not rows:
        raise ValueError(f"{path}: expected a header and rows; found an empty file")
    header, *rest = rows
    return Table(path, header.cells, [_of_width(row, header.cells) for row in rest])


def _of_width(row: Row, header: Sequence[str]) -> Row:
    width = len(header)
    if len(row.cells) < width or any(row.cells[width:]):  # delimiters at the end of a line are no cells
        raise ValueError(
            f"{row.where}: expected {width} cells, as in the header {list(header)}; found {len(row.cells)}: {row.cells}"
        )
    return row._replace(cells=row.cells[:width])


def read_lines(path: Path, encoding: str | None = None) -> list[Row]:
    """The lines that are not blank, stripped, each a row of one cell."""
    lines = read_text(path, encoding).split("\n")
    return [Row([line.strip()], path, number) for number, line in enumerate(lines, 1) if line.strip()]


def columns(header: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Places of the columns of these names, whatever their case.

    Raises:
        ValueError: one is missing, or is there twice.
    """
    titles = [name.casefold() for name in header]
    absent = [name for name in wanted if name.casefold() not in titles]
    if absent:
        one = "; cells are separated by comma, semicolon or tab" if len(header) == 1 else ""
        raise ValueError(f"{path}: expected the columns {list(wanted)}; found {list(header)}{one}")
    twice = [name for name in wanted if titles.count(name.casefold()) > 1]
    if twice:
        raise ValueError(f"{path}: expected one column {twice[0]}; found {list(header)}")
    return [titles.index(name.casefold()) for name in wanted]


def number(cell: str, where: object) -> float:
    """The number in a table's cell.

    Raises:
        ValueError: it is none, or not finite; the error says `where`.
    """
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError(f"{where}: expected a number; found {cell!r}")
    return value


def listed_path(cell: str, row: Row, root: Path) -> str:
    """The path that a table names an image by, relative to the root, with "/".

    Raises:
        ValueError: there is none, or it is absolute or an address.
    """
    if not cell:
        raise ValueError(f"{row.where}: expected the path of an image; found none in {row.cells}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", cell):
        raise ValueError(f"{row.where}: expected a path below the root; found {cell}; nothing is downloaded")
    if "\\" in cell and not (root / cell).is_file():
        cell = cell.replace("\\", "/")
    if cell.startswith("/") or re.match(r"[A-Za-z]:/", cell):
        raise ValueError(f"{row.where}: expected a path that is relative to {root}; found an absolute one: {cell}")
    return PurePosixPath(cell).as_posix()


def each_once(items: Iterable[tuple[str, Label, Row]]) -> list[tuple[str, Label]]:
    """(name, label) of the listed images.

    Raises:
        ValueError: an image is listed twice; the error says where, and whether the labels differ.
    """
    first: dict[str, tuple[Label, Row]] = {}
    twice = []
    for name, label, row in items:
        before, line = first.setdefault(name, (label, row))
        if line is not row:
            differ = "" if before == label else f", labelled {before} and {label}"
            twice.append(f"{name} (lines {line.line} and {row.line}{differ})")
    if twice:
        path = next(iter(first.values()))[1].path
        raise ValueError(f"{path}: {len(twice)} images are listed more than once: {some(twice)}")
    return [(name, label) for name, (label, _) in first.items()]
