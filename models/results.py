"""The results of many runs put together: pooled over folds, in a csv file and in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmmd.models.analysis.tables import Table
from fastmmd.models.experiment import Result
from fastmmd.models.files import write_atomically


@dataclass(frozen=True)
class Summary:
    """The runs of one task and method, each on its fold and with its seed.

    Args:
        accuracies: of each run, in percent.
        correct, tested: images that were right, and all, over the runs.
    """

    accuracies: tuple[float, ...]
    correct: int
    tested: int

    @property
    def pooled(self) -> float:
        """All that were right of all that were tested, in percent: what He & Ding report."""
        return 100 * self.correct / self.tested

    @property
    def spread(self) -> str:
        """Mean and standard deviation (n - 1) over the runs."""
        deviation = f" ± {np.std(self.accuracies, ddof=1):.1f}" if len(self.accuracies) > 1 else ""
        return f"{np.mean(self.accuracies):.1f}{deviation}"


def summaries(results: Iterable[Result]) -> dict[str, dict[str, Summary]]:
    """task -> method -> summary, in the order of the results."""
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(result["task"], {}).setdefault(result["method"], []).append(result)
    return {
        task: {
            method: Summary(
                tuple(run["accuracy"] for run in runs),
                sum(run["correct"] for run in runs),
                sum(run["test_images"] for run in runs),
            )
            for method, runs in methods.items()
        }
        for task, methods in groups.items()
    }


def accuracy_table(
    results: Sequence[Result],
    tasks: Mapping[str, str],
    methods: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    notes: str = "",
) -> Table:
    """A column a method; for each task pooled accuracy, mean and deviation over runs, and what is published.

    Args:
        results: of any tasks and methods.
        tasks, methods: the names for people.
        published: task -> method -> accuracy in percent, by those names.
        notes: more to be said below the table.
    """
    found = summaries(results)
    columns = list(dict.fromkeys(result["method"] for result in results))
    rows = []
    for task, by_method in found.items():
        cells = {
            "pooled": {method: f"{one.pooled:.2f} ({one.correct}/{one.tested})" for method, one in by_method.items()},
            "mean of runs": {method: one.spread for method, one in by_method.items()},
        }
        if published and tasks[task] in published:
            reported = published[tasks[task]]
            cells["published"] = {m: f"{reported[methods[m]]:.2f}" for m in columns if methods[m] in reported}
        for name, values in cells.items():
            rows.append((tasks[task], name, *(values.get(method, "-") for method in columns)))
    header = ("task", "accuracy, %", *(methods[method] for method in columns))
    return Table(header, rows, " ".join(filter(None, (conditions(results), notes))))


def method_table(
    results: Sequence[Result],
    tasks: Mapping[str, str],
    methods: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    notes: str = "",
) -> Table:
    """A row a method; for each task accuracy, mean and deviation over runs, and what is published.

    Args:
        results: of any tasks and methods.
        tasks, methods: the names for people; a row each method that was run, in this order.
        published: task -> method -> accuracy in percent, by the names for people. Methods that were not run have a row
            after the others, which says so.
        notes: more to be said below the table.
    """
    found = summaries(results)
    shown = {tasks[task]: {methods[method]: one for method, one in arms.items()} for task, arms in found.items()}
    runs = sorted({len(one.accuracies) for arms in shown.values() for one in arms.values()})
    how = (
        f"Mean ± standard deviation (n - 1) over {_span(runs)} {'run' if runs == [1] else 'runs'}. "
        f"Checkpoint: {_values(results, 'checkpoint')}. Steps: {_values(results, 'steps')}."
    )
    return summary_table(shown, methods.values(), published, " ".join(filter(None, (how, notes))))


def summary_table(
    found: Mapping[str, Mapping[str, Summary]],
    methods: Iterable[str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    notes: str = "",
) -> Table:
    """The rows and columns of `method_table`.

    Args:
        found: task -> method -> summary, by the names for people.
        methods: the order of the rows.
        published: task -> method -> accuracy in percent, by the same names.
        notes: what is said below the table.
    """
    reported = {task: (published or {}).get(task, {}) for task in found}
    run = [name for name in dict.fromkeys(methods) if any(name in arms for arms in found.values())]
    only = [name for name in dict.fromkeys(n for arms in reported.values() for n in arms) if name not in run]
    header = ["method"]
    for task in found:
        header += [f"{task}, %", "correct/tested", *(["published"] if published else [])]
    rows = []
    for name in (*run, *only):
        cells = [name if name in run else f"{name} (published only)"]
        for task, arms in found.items():
            one = arms.get(name)
            cells += ["-", "-"] if one is None else [one.spread, f"{one.correct}/{one.tested}"]
            if published:
                cells.append(f"{reported[task][name]:.2f}" if name in reported[task] else "-")
        rows.append(cells)
    return Table(header, rows, notes)


def conditions(results: Sequence[Result]) -> str:
    """How pooled results came about, in a few sentences."""
    runs = sorted({len(one.accuracies) for methods in summaries(results).values() for one in methods.values()})
    return (
        "Pooled: all correct of all tested over the runs. Mean ± standard deviation (n - 1) over "
        f"{_span(runs)} runs (folds and seeds). Target labels {_values(results, 'target_labels')} in training. "
        f"Checkpoint: {_values(results, 'checkpoint')}. Steps: {_values(results, 'steps')}."
    )


def _values(results: Iterable[Result], key: str) -> str:
    """All values of a column."""
    return ", ".join(sorted({str(result[key]) for result in results}))


def _span(counts: Sequence[int]) -> str:
    """Ascending counts as "3" or "1 to 3"."""
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A row a run, with the keys of `experiment.Result` as columns."""
    with write_atomically(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0]))
        writer.writeheader()
        writer.writerows(results)
