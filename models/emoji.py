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

Method = Literal["target_only", "source_only", "statistics", "dan", "jan", "both", "dsan"]
METHODS = {
    "target_only": "target only",
    "source_only": "no transfer term",
    "statistics": "batch statistics only",
    "dan": "DAN",
    "jan": "JAN",
    "both": "He & Ding",
    "dsan": "DSAN",
}
UNSUPERVISED = ("source_only", "statistics", "dan", "jan", "both")
FINE_TUNED = (
    "--model.network.init_args.freeze_backbone=false",
    "--data.features=null",
    "--data.train_transform=fastmmd.models.data.EvalTransform",
    "--data.train_transform.init_args.resize=128",
    "--data.train_transform.init_args.crop=128",
)


def compare(
    source: Path,
    target: Path,
    target_labels: Literal["ignored", "used"] = "ignored",
    target_per_class: int | None = None,
    methods: Sequence[Method] = UNSUPERVISED,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0,),
    freeze_backbone: bool = True,
    output: Path = Path("runs/emoji"),
    cache: Path = Path("runs/emoji-cache"),
    checkpoint: Checkpoint = "last",
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Trains and tests every method on every fold, and writes `results.csv`, `results.md` and `results.tex`.

    Run it again to continue after an interruption: finished runs are kept.

    Args:
        source, target: folders of icon sets.
        target_labels: whether the target's training labels are used; "target_only" always uses them.
        target_per_class: training emoji that are kept of each class of the target; all if not given.
        methods: names of packaged configurations. With target labels used, "statistics" is the same as "source_only".
        folds: of the target's split.
        seeds: of new layers, batches and dropout.
        freeze_backbone: train the new layers on the features as they are, computed once, or the whole network, which
            sees the drawings without augmentation.
        output: folder of tables and runs.
        cache: folder of drawings and features, which comparisons with different `output` share.
        checkpoint: tested weights: the last, or the best on the target's validation emoji.
        jobs: runs at a time, one thread each; as many as there are cores if not given.
        overrides: further arguments for every run, such as --trainer.max_epochs=4.
    """
    drawings, features = ((cache / name).absolute() for name in ("drawings", "features"))
    options = [
        *([f"--data.features={features}"] if freeze_backbone else FINE_TUNED),
        *(f"--data.{domain}.cache={drawings}" for domain in ("source", "target")),
        f"--data.source.folder={source.absolute()}",
        f"--data.target.folder={target.absolute()}",
        f"--model.target_labels={target_labels}",
        *([] if target_per_class is None else [f"--data.target_per_class={target_per_class}"]),
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
    notes = "" if target_per_class is None else f"At most {target_per_class} training emoji a class of the target."
    table = accuracy_table(results, {task: f"{source.name} to {target.name}"}, METHODS, notes=notes)
    table.write(output / "results.md", "Transfer between two vendors' emoji", "tab:emoji")
    print(f"\n{table.markdown()}\nTables and runs: {output}")


if __name__ == "__main__":
    auto_cli(compare, prog="python -m fastmmd.models.emoji")
