"""One table, written as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastmmd.models.files import write_atomically

# What LaTeX would not print as it stands.
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "->": r"$\to$",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Table:
    """Cells of plain text.

    Args:
        header: names of the columns.
        rows: as many cells each.
        notes: what must be known to read the table, below it.

    Raises:
        ValueError: a row of another length.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"rows: expected {len(self.header)} cells, as the header, got {list(row)}")

    def markdown(self) -> str:
        """GitHub's Markdown: the table, an empty line, the notes."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
        return f"{table}\n{self.notes}\n" if self.notes else table

    def latex(self, caption: str = "", label: str = "") -> str:
        """A `table` environment; needs `\\usepackage{booktabs}`. The first column is left-aligned, the others right."""
        body = [f"{' & '.join(map(_escaped, row))} \\\\" for row in (self.header, *self.rows)]
        lines = [
            r"\begin{table}",
            r"\centering",
            *([f"\\caption{{{_escaped(caption)}}}"] if caption else []),
            *([f"\\label{{{label}}}"] if label else []),
            f"\\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *([f"\\par\\smallskip\\footnotesize {_escaped(self.notes)}"] if self.notes else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path, caption: str = "", label: str = "") -> None:
        """Writes `path`, which ends in .md, and the same table beside it as .tex.

        Raises:
            ValueError: `path` does not end in .md.
        """
        if path.suffix != ".md":
            raise ValueError(f"path: expected a name that ends in .md, got {str(path)!r}")
        for target, text in ((path, self.markdown()), (path.with_suffix(".tex"), self.latex(caption, label))):
            with write_atomically(target) as file:
                file.write(text)


def _escaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)
