"""`python -m fastmmd.models.digits`: source only, its control, DAN, JAN, He & Ding's loss and DSAN on real digits.

Unsupervised transfer: networks learn from labelled digits of one style and unlabelled ones of another, and are tested
on the other style's unseen half. The data come with installed packages; the default, 36 runs, takes two minutes
on two cores.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from joblib import cpu_count
from jsonargparse import auto_cli
from sklearn.metrics import confusion_matrix

from fastmmd.models.analysis import figures
from fastmmd.models.data import OptDigits
from fastmmd.models.experiment import Checkpoint, Result, Run, execute_all
from fastmmd.models.files import write_atomically
from fastmmd.models.results import write_csv

TASKS = {"mnist": "MNIST-5k to optdigits", "fonts": "fonts to optdigits"}
SOURCES = {"mnist": "fastmmd.models.data.Mnist5k", "fonts": "fastmmd.models.data.FontDigits"}
METHODS = {
    "source_only": "source only",
    "statistics": "batch statistics only",
    "dan": "DAN",
    "jan": "JAN",
    "both": "He & Ding",
    "dsan": "DSAN",
}


Method = Literal["source_only", "statistics", "dan", "jan", "both", "dsan"]


def compare(
    tasks: Sequence[Literal["mnist", "fonts"]] = ("mnist", "fonts"),
    methods: Sequence[Method] = tuple(METHODS),
    seeds: Sequence[int] = (0, 1, 2),
    output: Path = Path("runs/digits"),
    checkpoint: Checkpoint = "last",
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Trains every method on every task with every seed, prints the table of test accuracies, and draws them.

    Run it again to continue after an interruption, or with more seeds: finished runs are kept.

    Args:
        tasks: what to transfer from.
        methods: names of packaged configurations.
        seeds: of initial weights, batches and dropout; the split of the target is the same for all.
        output: folder of tables, pictures, and a folder a run.
        checkpoint: tested weights: the last, or the best on the target's validation labels.
        jobs: runs at a time, one thread each; as many as there are cores if not given.
        overrides: further arguments for every run, such as --trainer.max_epochs=1.
    """
    runs = [
        Run(
            task,
            method,
            seed,
            ("--config=digits.yaml", f"--config={method}.yaml", f"--data.source={SOURCES[task]}", *overrides),
            checkpoint,
        )
        for task in tasks
        for method in methods
        for seed in seeds
    ]
    results = execute_all(runs, output, jobs or cpu_count())
    table = markdown(results)
    with write_atomically(output / "results.md") as file:
        file.write(table)
    write_csv(results, output / "results.csv")
    draw(results, output)
    print(f"\n{table}\nTables, pictures and runs: {output}")


def markdown(results: list[Result]) -> str:
    """The results as a Markdown table, a row a task and method, and what must be known to read it."""
    rows = ["| task | method | mean | std | seeds | each seed |", "|---|---|---|---|---|---|"]
    for task, by_method in grouped(results).items():
        for method, accuracies in by_method.items():
            std = f"{np.std(accuracies, ddof=1):.1f}" if len(accuracies) > 1 else "-"
            each = " ".join(f"{accuracy:.1f}" for accuracy in accuracies)
            rows.append(f"| {task} | {method} | {np.mean(accuracies):.1f} | {std} | {len(accuracies)} | {each} |")
    return "\n".join(rows) + f"\n\n{conditions(results)}\n"


def conditions(results: list[Result]) -> str:
    """One sentence on how the results came about."""

    def values(key: str) -> str:
        return ", ".join(sorted({str(result[key]) for result in results}))

    unsupervised = "Unsupervised: target" if values("target_labels") == "ignored" else "Target"
    return (
        f"Accuracy in % on {values('test_images')} unseen target images. {unsupervised} labels "
        f"{values('target_labels')} in training. Checkpoint: {values('checkpoint')}. Steps: {values('steps')}. "
        "std is over seeds (n - 1)."
    )


def grouped(results: list[Result]) -> dict[str, dict[str, list[float]]]:
    """task -> method -> accuracies, one a seed, with the names for people."""
    groups: dict[str, dict[str, list[float]]] = {}
    for result in results:
        methods = groups.setdefault(TASKS[result["task"]], {})
        methods.setdefault(METHODS[result["method"]], []).append(result["accuracy"])
    return groups


def draw(results: list[Result], output: Path) -> None:
    """Draws `accuracy.png` and, for each task, `confusion_<task>.png` (all seeds together)."""
    seeds = len({result["seed"] for result in results})
    labels = " or ".join(sorted({result["target_labels"] for result in results}))
    note = f"target labels {labels} in training; bars: mean of {seeds} seeds, points: seeds"
    figures.methods(grouped(results), note, output / "accuracy.png")
    for task in dict.fromkeys(result["task"] for result in results):
        matrices: dict[str, np.ndarray] = {}
        for result in results:
            if result["task"] == task:
                with open(output / result["folder"] / "predictions.csv", newline="") as file:
                    rows = [(row["label"], row["prediction"]) for row in csv.DictReader(file)]
                matrix = confusion_matrix(*zip(*rows, strict=True), labels=OptDigits.classes)
                name = METHODS[result["method"]]
                matrices[name] = matrices.get(name, 0) + matrix
        title = f"{TASKS[task]}, {seeds} seeds together"
        figures.confusions(matrices, OptDigits.classes, output / f"confusion_{task}.png", title)


if __name__ == "__main__":
    auto_cli(compare, prog="python -m fastmmd.models.digits")
