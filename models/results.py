"""The results of many runs put together: pooled over folds, in a csv file and in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastmmd.models.analysis.metrics import METRICS
from fastmmd.models.analysis.tables import Table
from fastmmd.models.experiment import Result
from fastmmd.models.files import write_atomically

# Of the metrics of a test, those that have a place in tables.
SHOWN = {"macro_f1": METRICS["macro_f1"], "polarity_accuracy": METRICS["polarity_accuracy"]}


@dataclass(frozen=True)
class Summary:
    """The runs of one task and method, each on its fold and with its seed.

    Args:
        accuracies: of each run, in percent.
        correct, tested: images that were right, and all, over the runs.
        metrics: name -> that of each run, in percent, see `SHOWN`; without those that not all of the runs have.
    """

    accuracies: tuple[float, ...]
    correct: int
    tested: int
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def pooled(self) -> float:
        """All that were right of all that were tested, in percent: what He & Ding report."""
        return 100 * self.correct / self.tested

    @property
    def spread(self) -> str:
        """Mean and standard deviation (n - 1) over the runs."""
        return _spread(self.accuracies)

    def spread_of(self, metric: str) -> str:
        """That of another metric; "-" if the runs do not have it."""
        return _spread(self.metrics[metric]) if metric in self.metrics else "-"


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
                {name: tuple(run[name] for run in runs) for name in SHOWN if all(name in run for run in runs)},
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

    Macro-F1, and the accuracy of positive against negative emotions, have rows if there are runs that measured them.

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
        for metric, name in _measured(by_method.values()).items():
            cells[f"{name}, mean of runs"] = {method: one.spread_of(metric) for method, one in by_method.items()}
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

    Macro-F1, and the accuracy of positive against negative emotions, have columns if there are runs that measured them.

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
    measured = {task: _measured(arms.values()) for task, arms in found.items()}
    header = ["method"]
    for task in found:
        others = [f"{name}, %" for name in measured[task].values()]
        header += [f"{task}, %", "correct/tested", *others, *(["published"] if published else [])]
    rows = []
    for name in (*run, *only):
        cells = [name if name in run else f"{name} (published only)"]
        for task, arms in found.items():
            one = arms.get(name)
            cells += ["-", "-"] if one is None else [one.spread, f"{one.correct}/{one.tested}"]
            cells += ["-" if one is None else one.spread_of(metric) for metric in measured[task]]
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


def _measured(found: Iterable[Summary]) -> dict[str, str]:
    """The metrics that have a place in tables and that one of the summaries has, with their names for people."""
    known = {metric for one in found for metric in one.metrics}
    return {metric: name for metric, name in SHOWN.items() if metric in known}


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation (n - 1)."""
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def _values(results: Iterable[Result], key: str) -> str:
    """All values of a column."""
    return ", ".join(sorted({str(result[key]) for result in results}))


def _span(counts: Sequence[int]) -> str:
    """Ascending counts as "3" or "1 to 3"."""
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A row a run, with the keys of `experiment.Result` as columns; what a run does not have is empty."""
    columns = dict.fromkeys(key for result in results for key in result)
    with write_atomically(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(results)
