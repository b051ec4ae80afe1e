"""Two figures of a report: speedups with the share of torch.mm's rate, and time and memory over N.

python -m bench.plots RECORD.json [...]     draws them beside a record made where matplotlib is missing
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.cases import Case
from bench.competitors import BLOCKED, COMPILED, DENSE, FASTMMD, NAIVE, TWO_CALLS
from bench.record import MIB, Report, Result
from fastmmd.models.files import write_atomically

ABOVE_CONDITIONS = (0, 0.035, 1, 0.965)  # left, bottom, width, height: the line of conditions is below
# Okabe & Ito's palette, told apart under every common colour blindness; the markers differ as well.
STYLES = {
    FASTMMD: ("#0072B2", "o"),
    NAIVE: ("#D55E00", "s"),
    DENSE: ("#E69F00", "^"),
    BLOCKED: ("#000000", "X"),
    COMPILED: ("#009E73", "D"),
    TWO_CALLS: ("#CC79A7", "v"),
}


def draw(report: Report, cases: Mapping[str, Case], out: Path) -> list[Path]:
    """Writes ``NAME-speedup.png`` and, if a series of sizes was measured, ``NAME-size.png`` beside `out`."""
    figures = {"speedup": _speedups(report, cases), "size": _sizes(report, cases)}
    paths = []
    for kind, figure in figures.items():
        if figure is not None:
            figure.text(0.01, 0.006, report.conditions(), fontsize=7, color="#555555")
            paths.append(out.with_name(f"{out.stem}-{kind}.png"))
            with write_atomically(paths[-1], "wb") as file:
                figure.savefig(file, dpi=150, format="png")
    return paths


def _speedups(report: Report, cases: Mapping[str, Case]) -> Figure | None:
    shares = [
        (r, r.share)
        for r in report.results
        if r.competitor == FASTMMD and r.share is not None and cases[r.case].form is None
    ]
    if not shares:
        return None
    figure = Figure(figsize=(11, 1.9 + 0.52 * len(shares)), layout=ConstrainedLayoutEngine(rect=ABOVE_CONDITIONS))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for row, (result, share) in enumerate(shares):
        targets = report.targets(cases[result.case])
        floors = {NAIVE: targets.naive, DENSE: targets.dense, COMPILED: targets.compiled}
        beside = row - 0.375  # spreads overlap, so each competitor has a height of its own
        for name, (colour, marker) in STYLES.items():
            if name in result.speedup:
                _point(left, result.speedup[name], beside, colour, marker)
                _floor(left, floors.get(name), beside, colour)
            beside += 0.15
        _point(right, share, row, *STYLES[FASTMMD])
        _floor(right, targets.share, row, STYLES[FASTMMD][0])
    for name in [name for name in STYLES if any(name in r.speedup for r, _ in shares)]:
        left.plot([], [], STYLES[name][1], color=STYLES[name][0], label=f"over {name}")
    left.plot([], [], "|", color="black", markersize=9, markeredgewidth=2, label="target")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    left.set(xscale="log", xlabel="times faster (forward + backward)")
    left.xaxis.set_major_formatter("{x:g}x")
    left.set_yticks(range(len(shares)), [r.case for r, _ in shares])
    left.set_ylim(len(shares) - 0.4, -0.6)
    right.set(xlabel="share of torch.mm's rate")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.axvline(1, color="#777777", linewidth=1)
        axes.grid(axis="x", color="#e4e4e4")
        for row in range(1, len(shares)):
            axes.axhline(row - 0.5, color="#f0f0f0", linewidth=1)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _point(axes: Axes, spread: tuple[float, float, float], row: float, colour: str, marker: str) -> None:
    low, middle, high = spread
    axes.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.6)
    axes.plot(middle, row, marker, color=colour, markersize=6)


def _floor(axes: Axes, value: float | None, row: float, colour: str) -> None:
    if value is not None:
        axes.plot(value, row, "|", color=colour, markersize=9, markeredgewidth=2)


def _sizes(report: Report, cases: Mapping[str, Case]) -> Figure | None:
    """The series with the most sizes; every competitor is a line as long as it fits the memory budget."""
    series: dict[str, list[Case]] = {}
    for case in cases.values():
        if case.series:
            series.setdefault(case.series, []).append(case)
    title, members = max(series.items(), key=lambda item: len(item[1]), default=("", []))
    if len(members) < 2:
        return None
    figure = Figure(figsize=(11, 4.6), layout=ConstrainedLayoutEngine(rect=ABOVE_CONDITIONS))
    left, right = figure.subplots(1, 2)
    for name, (colour, marker) in STYLES.items():
        results = {
            case.n: result
            for case in members
            for result in report.of(case.name)
            if result.competitor == name and result.seconds
        }
        if not results:
            continue
        sizes = sorted(results)
        _line(left, sizes, [results[n] for n in sizes], colour, marker, name)
        right.plot(sizes, [(results[n].extra_bytes or 0) / MIB for n in sizes], marker + "-", color=colour)
    ticks = [case.n for case in members]
    for axes, label in ((left, "milliseconds (forward + backward)"), (right, "extra memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="N = source + target rows", ylabel=label)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set_title(title, fontsize=10)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def _line(axes: Axes, sizes: Sequence[int], results: Sequence[Result], colour: str, marker: str, name: str) -> None:
    spreads = [[1e3 * value for value in r.seconds["both"]] for r in results]
    lows, middles, highs = zip(*spreads, strict=True)
    axes.plot(sizes, middles, marker + "-", color=colour, label=name)
    axes.fill_between(sizes, lows, highs, color=colour, alpha=0.2, linewidth=0)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record = Report.load(Path(name))
        for path in draw(record, record.cases(), Path(name)):
            print(path)
