"""What two domains hold and how they are divided, as tables, before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fastmmd.models.data.division import Division
from fastmmd.models.data.domain import UNLABELLED, ImageDomain, some
from fastmmd.models.data.domains import DomainPair

Rows = list[tuple[str, ...]]
NAMES = ("source", "target")
NONE = "-"


def describe(data: DomainPair) -> str:
    """Markdown: what was read of each domain and what was not, its parts, its classes, and what is odd.

    Copies are pictures that are the same pixel by pixel. A picture of the target's test that has a copy among those
    that are trained on is tested wrongly: a line that begins with "WARNING" says so, with the remedy.
    """
    division = data.division
    parts = [_aligned(rows) for rows in (_domains(division), _classes(division), _left_out(division)) if len(rows) > 1]
    notes = [f"* {note}\n" for note in (*_unlearned(division), *_copies(division), *_uniform(division))]
    return "\n".join([*parts, *(["".join(notes)] if notes else [])])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns are as wide as their longest cell, to be read in a terminal too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    lines = [header, ["-" * width for width in widths], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _domains(division: Division) -> Rows:
    """Where each domain is, how many items it has, and how many are in each part."""
    held_out = {"source": division.items["source"][1], "target": division.items["target"][1]}
    return [
        ("data", *NAMES),
        ("folder", *(str(getattr(division.domains[name], "root", NONE)) for name in NAMES)),
        ("items", *(_count(len(division.names[name])) for name in NAMES)),
        ("without a label", *(_count(list(division.domains[name].targets).count(UNLABELLED)) for name in NAMES)),
        ("classes", *[_count(len(division.classes))] * 2),
        ("division", *(_told(division.splits[name].protocol) for name in NAMES)),
        ("training", *(_count(len(division.items[name][0])) for name in NAMES)),
        ("validation", *(_count(len(held_out[name])) for name in NAMES)),
        ("test", NONE, _count(len(division.test_items))),
        ("left out", *(_count(sum(map(len, _dropped(division, name).values()))) for name in NAMES)),
    ]


def _classes(division: Division) -> Rows:
    """Items of each class in each part."""
    parts = {
        "source training": ("source", division.items["source"][0]),
        "source validation": ("source", division.items["source"][1]),
        "target training": ("target", division.items["target"][0]),
        "target validation": ("target", division.items["target"][1]),
        "target test": ("target", division.test_items),
    }
    counts = [Counter(int(division.domains[name].targets[item]) for item in items) for name, items in parts.values()]
    labels = [*range(len(division.classes)), *([UNLABELLED] if any(UNLABELLED in count for count in counts) else [])]
    names = {UNLABELLED: "(no label)", **dict(enumerate(division.classes))}
    return [("class", *parts), *((names[label], *(_count(count[label]) for count in counts)) for label in labels)]


def _left_out(division: Division) -> Rows:
    """What is in no part, and why."""
    rows = [
        (name, reason, _count(len(items)), some(items, 3))
        for name in NAMES
        for reason, items in _dropped(division, name).items()
    ]
    return [("left out of", "why", "items", "such as"), *rows]


def _dropped(division: Division, name: str) -> dict[str, Sequence[str]]:
    return {**getattr(division.domains[name], "dropped", {}), **division.left_out[name]}


def _copies(division: Division) -> Iterable[str]:
    groups = division.copies()
    if not groups:
        return
    for name in NAMES:
        inside = [members for group in groups if len(members := [item for domain, item in group if domain == name]) > 1]
        if inside:
            labels = dict(zip(division.names[name], division.domains[name].targets, strict=True))
            torn = sum(len({labels[item] for item in members}) > 1 for members in inside)
            yield f"copies within the {name}: {sum(map(len, inside))} pictures in {len(inside)} groups, such as " + (
                _alike(inside[0]) + (f"; in {torn} groups their labels differ" if torn else "")
            )
    shared = [group for group in groups if {domain for domain, _ in group} == set(NAMES)]
    if shared and len({getattr(domain, "root", None) for domain in division.domains.values()}) == 2:
        source, target = (next(item for domain, item in shared[0] if domain == name) for name in NAMES)
        yield f"copies across the domains: {len(shared)}, such as {source} of the source = {target} of the target"
    trained = {(name, division.names[name][item]) for name in NAMES for item in division.items[name][0]}
    tested = {
        ("target", division.names["target"][item]) for item in (*division.test_items, *division.items["target"][1])
    }
    leaks = [
        (member, min(trained & set(group)))
        for group in groups
        if trained & set(group)
        for member in sorted(tested & set(group))
    ]
    if leaks:
        (_, held_out), (domain, copy) = leaks[0]
        yield (
            f"WARNING: {len(leaks)} held-out pictures of the target have copies that are trained on, such as "
            f"{held_out} ({copy} of the {domain}), so they are no test; data.exclude_held_out: true leaves these out"
        )


def _alike(names: Sequence[str]) -> str:
    """The first few of the names of one picture."""
    return " = ".join(names[:3]) + (f" = ... ({len(names)} in all)" if len(names) > 3 else "")


def _unlearned(division: Division) -> Iterable[str]:
    """Classes that nothing can be learned of from the source."""
    taught = {int(division.domains["source"].targets[item]) for item in division.items["source"][0]}
    absent = [name for label, name in enumerate(division.classes) if label not in taught]
    if absent:
        yield f"classes without a training picture in the source: {some(absent)}"


def _uniform(division: Division) -> Iterable[str]:
    """Pictures of one colour: broken more often than meant."""
    for name, domain in division.domains.items():
        if isinstance(domain, ImageDomain):
            uniform = [item for item in domain.names if domain.inspections[item].uniform]
            if uniform:
                yield f"pictures of a single colour in the {name}: {len(uniform)}, such as {some(uniform, 3)}"


def _told(protocol: dict[str, object]) -> str:
    return ", ".join(str(value) if key == "name" else f"{key} {value}" for key, value in protocol.items())


def _count(number: int) -> str:
    return f"{number:,}"
