"""`python -m fastmmd.models.emoji`: transfer between two vendors' emoji, real drawings in eight groups.

    python -m fastmmd.models.emoji node_modules/@iconify-json/noto node_modules/@iconify-json/twemoji

How to get the icon sets: see `data.emoji`. Networks learn from one vendor's labelled drawings and the other's, labelled
or not, and are tested on the other's drawings of emoji that they have seen from neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from joblib import cpu_count
from jsonargparse import auto_cli

from fastmmd.models.experiment import Checkpoint, Run, execute_all
from fastmmd.models.results import accuracy_table, write_csv

Method = Literal["target_only", "source_only", "dan", "jan", "both"]
METHODS = dict(zip(Method.__args__, ("target only", "no transfer term", "DAN", "JAN", "He & Ding"), strict=True))
UNSUPERVISED = ("source_only", "dan", "jan", "both")


def compare(
    source: Path,
    target: Path,
    target_labels: Literal["ignored", "used"] = "ignored",
    methods: Sequence[Method] = UNSUPERVISED,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0,),
    freeze_backbone: bool = True,
    output: Path = Path("runs/emoji"),
    checkpoint: Checkpoint = "last",
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Trains and tests every method on every fold, and writes `results.csv`, `results.md` and `results.tex`.

    Run it again to continue after an interruption: finished runs are kept.

    Args:
        source, target: folders of icon sets.
        target_labels: whether the target's training labels are used; "target_only" always uses them.
        methods: names of packaged configurations.
        folds: of the target's split.
        seeds: of new layers, batches and dropout.
        freeze_backbone: train the new layers on the features as they are, or the whole network.
        output: folder of all that is written.
        checkpoint: tested weights: the last, or the best on the target's validation emoji.
        jobs: runs at a time, one thread each; as many as there are cores if not given.
        overrides: further arguments for every run, such as --trainer.max_epochs=4.
    """
    drawings = (output / "drawings").absolute()
    options = [
        f"--model.network.init_args.freeze_backbone={str(freeze_backbone).lower()}",
        *(f"--data.{domain}.cache={drawings}" for domain in ("source", "target")),
        f"--data.source.folder={source.absolute()}",
        f"--data.target.folder={target.absolute()}",
        f"--model.target_labels={target_labels}",
    ]
    task = f"{source.name}_{target.name}"
    runs = [
        Run(task, name, seed, ("--config=emoji.yaml", *options, f"--config={name}.yaml", *overrides), checkpoint, fold)
        for name in methods
        for seed in seeds
        for fold in folds
    ]
    results = execute_all(runs, output, jobs or cpu_count())
    write_csv(results, output / "results.csv")
    table = accuracy_table(results, {task: f"{source.name} to {target.name}"}, METHODS)
    table.write(output / "results.md", "Transfer between two vendors' emoji", "tab:emoji")
    print(f"\n{table.markdown()}\nTables and runs: {output}")


if __name__ == "__main__":
    auto_cli(compare, prog="python -m fastmmd.models.emoji")
