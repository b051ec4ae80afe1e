"""`python -m fastmmd.models.emotion`: the experiments of He & Ding 2020 on image emotions, with their table 2.

    python -m fastmmd.models.emotion --root.fi data/FI --root.iaps data/IAPS --root.artphoto data/ArtPhoto
    python -m fastmmd.models.emotion --demo true         # on generated pictures, in minutes

Four tasks, five methods, five folds. Their output folder holds

* `table2.md` and `table2.tex`, pooled accuracies and those that are published, and `results.csv`, a row a run; after a
  sweep `sweep.md`, `sweep.tex` and `sweep.csv`;
* below each run's `folder`, which `results.csv` names: `predictions.csv`, `features.npz`, `features_before.npz` and
  `split.json` (see `callbacks.ResultFiles`), checkpoints and logs;
* figures, see `report`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from joblib import cpu_count
from jsonargparse import auto_cli

from fastmmd.models.analysis import embedding, figures, predictions, published, significance
from fastmmd.models.analysis.metrics import METRICS
from fastmmd.models.data.demo import INVENTED, write_emotion_sets
from fastmmd.models.experiment import Checkpoint, Result, Run, execute_all
from fastmmd.models.results import accuracy_table, summaries, write_csv

Task = Literal["fi_iaps", "artphoto_iaps", "fi_artphoto", "iaps_artphoto"]
Method = Literal["ctd", "cbd", "dan", "jan", "ours", "dsan"]

# Names for people, those of the paper, which has no DSAN.
TASKS = dict(zip(Task.__args__, ("F->I", "A->I", "F->A", "I->A"), strict=True))
METHODS = dict(zip(Method.__args__, (*published.METHODS, "DSAN"), strict=True))
# The packaged configuration of each method; with target labels used, "source only" is both without transfer.
CONFIGS = dict(zip(Method.__args__, ("target_only", "source_only", "dan", "jan", "both", "dsan"), strict=True))
ETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Roots:
    """Folders of the data sets, each in a layout that its reader in `data.readers` knows.

    Args:
        fi: Flickr and Instagram.
        artphoto: ArtPhoto.
        iaps: IAPS-Subset.
    """

    fi: Path | None = None
    artphoto: Path | None = None
    iaps: Path | None = None


def compare(
    root: Roots = Roots(),
    tasks: Sequence[Task] = tuple(TASKS),
    methods: Sequence[Method] = ("ctd", "cbd", "dan", "jan", "ours"),
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0,),
    sweep: Literal["eta"] | None = None,
    demo: bool = False,
    skip_unreadable: bool = False,
    output: Path | None = None,
    checkpoint: Checkpoint = "last",
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Trains and tests every method on every task and fold, and writes the tables and figures.

    Run it again to continue after an interruption: finished runs are kept.

    What the paper leaves open is reconstructed: see `emotion.yaml` for the recipe and `floor_split` for the folds. On
    IAPS-Subset anger is left out of the test. The paper is silent on model choice as well; validation parts of 15 and
    37 images are too small for it, so the last checkpoint of a fixed schedule is tested.

    Args:
        root: where the data sets are.
        tasks: source and target.
        methods: CTD, CBD, DAN, JAN and the paper's own; on request DSAN, whose term is supervised here too.
        folds: of the target's split.
        seeds: of initial weights, batches and dropout.
        sweep: "eta" trains the paper's own method with eta in 0, 0.1, ..., 0.5 and lambda = 1 - eta, as its figure 4,
            in place of `methods`.
        demo: use generated pictures with invented labels, written into `output`, and the small network of `small.yaml`;
            shows that all works, and nothing about emotions.
        skip_unreadable: leave out images that cannot be decoded (each run then decodes all once) and do not stop.
        output: folder of all that is written; if not given, runs/emotion, or runs/emotion-demo.
        checkpoint: tested weights: the last, or the best on the target's validation images.
        jobs: runs at a time, one thread each; if not given, as many as there are cores, or one on a GPU.
        overrides: further arguments for every run, such as --config=own.yaml or --data.workers=8.

    Raises:
        ValueError: a data set of one of the tasks has no root.
    """
    output = output or Path("runs/emotion-demo" if demo else "runs/emotion")
    if demo:
        root = Roots(**write_emotion_sets(output / "data"))
        overrides = ("--config=small.yaml", *overrides)
    absent = [one.name for one in fields(root) if getattr(root, one.name) is None]
    missing = [f"--root.{name}" for name in absent if any(name in task.split("_") for task in tasks)]
    if missing:
        raise ValueError(f"root: expected a folder for each data set of the tasks, got none for {', '.join(missing)}")

    arms = {f"eta{eta:g}": sweep_args(eta) for eta in ETAS} if sweep else {name: method_args(name) for name in methods}
    readers = (f"--data.{domain}.skip_unreadable={str(skip_unreadable).lower()}" for domain in ("source", "target"))
    options = (*readers, *overrides)
    runs = [
        Run(task, arm, seed, ("--config=emotion.yaml", *task_args(task, root), *args, *options), checkpoint, fold)
        for task in tasks
        for arm, args in arms.items()
        for seed in seeds
        for fold in folds
    ]
    results = execute_all(runs, output, jobs or (1 if torch.cuda.is_available() else cpu_count()))
    write_tables(results, output, sweep is not None, demo)
    report(output, demo)
    print(f"Tables, figures and runs: {output}")


def task_args(task: str, root: Roots) -> tuple[str, ...]:
    """Arguments of a run that name source and target."""
    source, target = (Path(getattr(root, name)).absolute() for name in task.split("_"))
    return f"--config={task}.yaml", f"--data.source.root={source}", f"--data.target.root={target}"


def method_args(method: str) -> tuple[str, ...]:
    return (f"--config={CONFIGS[method]}.yaml",)


def sweep_args(eta: float) -> tuple[str, ...]:
    """He & Ding's loss with lambda = 1 - eta."""
    weights = "--model.transfer.init_args."
    return "--config=both.yaml", f"{weights}joint={1 - eta:g}", f"{weights}marginal=[{eta:g},0.0]"


def write_tables(results: Sequence[Result], output: Path, swept: bool, demo: bool) -> None:
    """Writes and prints `results.csv` and `table2`, or `sweep.csv` and `sweep`.

    What is published stands beside results on the real sets only.
    """
    if swept:
        names = {result["method"]: result["method"].replace("eta", "eta ") for result in results}
        write_csv(results, output / "sweep.csv")
        table = accuracy_table(results, TASKS, names, notes=" ".join(["lambda = 1 - eta.", *([INVENTED] * demo)]))
        table.write(output / "sweep.md", "Accuracy against eta", "tab:eta")
    else:
        write_csv(results, output / "results.csv")
        notes = INVENTED if demo else "Published: He & Ding 2020."
        table = accuracy_table(results, TASKS, METHODS, None if demo else published.ACCURACY, notes)
        table.write(output / "table2.md", "Accuracy of transfer between image-emotion data sets", "tab:transfer")
    print(f"\n{table.markdown()}")


def report(output: Path, demo: bool = False) -> None:
    """Draws what the paper's figures 2 to 4 show, and more, from the files in `output`.

    For each task `classes_<task>.png` (accuracy of each class), `confusion_<task>.png`, `pairs_<task>.md` (do two
    methods differ by more than chance?) and `domains_<task>.png` (t-SNE of the first run of the last method); over all
    tasks `accuracy.png`. After a sweep `sweep.png`. In a demonstration each says that its labels are invented.
    """
    note = f"\n{INVENTED}" if demo else ""
    if (output / "results.csv").is_file():
        results = read_results(output / "results.csv")
        found = summaries(results)
        accuracies = {TASKS[t]: {METHODS[m]: one.accuracies for m, one in arms.items()} for t, arms in found.items()}
        figures.methods(accuracies, f"bars: means, points: runs, one a fold (and seed){note}", output / "accuracy.png")
        for task in found:
            report_task(task, [result for result in results if result["task"] == task], output, demo)
    if (output / "sweep.csv").is_file():
        found = summaries(read_results(output / "sweep.csv"))
        accuracies = {
            TASKS[task]: {float(name.removeprefix("eta")): one.accuracies for name, one in arms.items()}
            for task, arms in found.items()
        }
        figures.sweep(accuracies, output / "sweep.png", note.strip() or None)


def report_task(task: str, results: Sequence[Result], output: Path, demo: bool) -> None:
    """The figures of one task."""
    note = f"\n{INVENTED}" if demo else ""
    folders: dict[str, list[Path]] = {}
    for result in results:
        folders.setdefault(METHODS[result["method"]], []).append(output / result["folder"])
    found = {
        method: predictions.read_predictions(*(folder / "predictions.csv" for folder in runs))
        for method, runs in folders.items()
    }
    matrices = {method: one.confusion for method, one in found.items()}
    classes = next(iter(found.values())).classes
    counts = next(iter(matrices.values())).sum(axis=1)
    untested = [name for name, count in zip(classes, counts, strict=True) if not count]
    title = f"{TASKS[task]}, all folds{note}"
    figures.by_class(matrices, classes, output / f"classes_{task}.png", title, untested)
    figures.confusions(matrices, classes, output / f"confusion_{task}.png", title)
    # Runs of several seeds are not independent of each other.
    if len(found) > 1 and len({result["seed"] for result in results}) == 1:
        pairs = significance.compare(predictions.paired(found))
        table = significance.pairs_table(pairs, None if demo else TASKS[task])
        table.write(output / f"pairs_{task}.md", title.replace("\n", ". "))

    method, (folder, *_) = list(folders.items())[-1]
    stages = {}
    for stage, name in (("before training", "features_before.npz"), ("after training", "features.npz")):
        with np.load(folder / name) as arrays:
            stages[stage] = {part: (arrays[part], arrays[f"{part}_labels"]) for part in ("source", "target")}
    embedding.draw_domains(stages, classes, output / f"domains_{task}.png", f"{TASKS[task]}, {method}, one fold{note}")


def read_results(path: Path) -> list[Result]:
    """The rows that `write_csv` has written."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"accuracy": float, "correct": int, "test_images": int, **dict.fromkeys(METRICS, float)}
    return [
        {key: numbers.get(key, str)(value) for key, value in row.items() if value or key not in METRICS} for row in rows
    ]


if __name__ == "__main__":
    auto_cli(compare, prog="python -m fastmmd.models.emotion")
