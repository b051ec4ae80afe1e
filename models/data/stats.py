"""`python -m fastmmd.models.data.stats READER ROOT`: what a data set on disk holds, beside what the papers counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from jsonargparse import auto_cli

from fastmmd.models.data.domain import UNLABELLED, ImageDomain, some
from fastmmd.models.data.readers import MIKELS, read
from fastmmd.models.data.readers.scans import identical, inspect, placeholders

# Reader -> images of each of Mikels' classes in He & Ding 2020, Table 1, and the sum that is printed there.
PAPER = {
    "fi": ((4861, 1236, 3055, 5292, 1616, 2827, 998, 2815), 22700),
    "artphoto": ((101, 77, 102, 70, 70, 105, 115, 166), 806),
    "iaps": ((37, 8, 54, 53, 74, 55, 42, 62), 395),
}
# Further totals in print.
NOTES = {
    "fi": "Rao et al.: 23,164 well-labelled images. The authors' votes: 23,166.",
    "abstract": "Rao et al.: 228 images.",
    "iaps": "Rao et al.: 395 images.",
    "mart": "Rao et al.: 500 images.",
}


def statistics(reader: str, root: str, options: Mapping[str, Any] | None = None) -> str:
    """Markdown on a data set: images of each class, file types, and what is wrong with files.

    All images are decoded, which takes minutes for large sets.

    Args:
        reader: name of the data set's reader.
        root: folder of the data set.
        options: the reader's further arguments.

    Raises:
        FileNotFoundError, ValueError: as the reader.
    """
    domain = read(reader, root, options)
    return "\n".join([f"# {reader}: {root}", "", *_counts(reader, domain), "", *_files(domain)])


def _counts(reader: str, domain: ImageDomain) -> list[str]:
    """The table of counts a class, and what is to be said of its sums."""
    found = Counter(domain.targets)
    lines = ["| class | images | He & Ding |", "|---|---|---|"]
    counts, printed = PAPER.get(reader, ((), None))
    paper = dict(zip(MIKELS, counts, strict=False))
    lines += [f"| {name} | {found[label]} | {paper.get(name, '-')} |" for label, name in enumerate(domain.classes)]
    if found[UNLABELLED]:
        lines.append(f"| (no label) | {found[UNLABELLED]} | - |")
    lines.append(f"| sum | {len(domain)} | {sum(counts) or '-'} |")
    notes = [NOTES[reader]] if reader in NOTES else []
    if printed is not None and printed != sum(counts):
        notes.insert(0, f"He & Ding print the sum {printed}; the classes they list add to {sum(counts)}.")
    return [*lines, "", " ".join(notes)] if notes else lines


def _files(domain: ImageDomain) -> list[str]:
    """Sizes, modes, copies, placeholders, unreadable files, and what the reader left out."""
    inspections = inspect(domain)
    sizes = [found.size for found in inspections if found.size is not None]
    lines = []
    for side, values in zip(("width", "height"), zip(*sizes, strict=True), strict=False):
        lines.append(f"* {side}, pixels: {min(values)} to {max(values)}, median {median(values):g}")
    modes = Counter(found.mode for found in inspections if found.mode is not None)
    lines.append(f"* modes: {', '.join(f'{mode} {count}' for mode, count in modes.most_common()) or 'none'}")
    groups = identical(domain)
    copies = "; ".join(" = ".join(names) for names in groups[:5])
    lines.append(f"* groups of identical files: {len(groups)}" + (f", such as {copies}" if groups else ""))
    found = placeholders(domain)
    lines.append(f"* files that look like placeholders: {len(found)}" + (f": {some(found)}" if found else ""))
    errors = [
        f"{domain.location(item)}: {result.error}"
        for item, result in enumerate(inspections)
        if result.error is not None
    ]
    lines.append(f"* unreadable files: {len(errors)}")
    lines += [f"  * {error}" for error in errors]
    lines += [f"* left out, {reason}: {len(names)}: {some(names)}" for reason, names in domain.dropped.items()]
    return lines


def main(reader: str, root: str, options: dict[str, Any] | None = None) -> None:
    """Prints what a data set on disk holds, beside what the papers counted.

    Args:
        reader: name of the data set's reader, such as fi or artphoto.
        root: folder of the data set.
        options: the reader's further arguments, as in '{"labels": "noisy"}'.
    """
    print(statistics(reader, root, options))


if __name__ == "__main__":
    auto_cli(main, prog="python -m fastmmd.models.data.stats")
