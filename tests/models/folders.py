"""Folders of small pictures, and runs on them by the command line, for tests of what happens to files."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from fastmmd.models.cli import main

CLASSES = ("awe", "fear", "joy")
SILENT = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


class Colours(nn.Flatten):
    """The smallest backbone: pictures [n, 3, 8, 8] as they are, [n, 192]."""

    out_features = 192


def picture(seed, size=(12, 10)):
    """A picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write(root, seed=0, each=10, classes=CLASSES):
    """`<class>/00.png`, ...: pictures that differ from each other and from those of another seed below 100."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            picture([seed, number, k]).save(root / name / f"{k:02}.png")
    return root


def config(folder, **data):
    """A configuration behind folders.yaml: a small network on 8 x 8 pixels, two steps."""
    backbone = {"class_path": "tests.models.folders.Colours"}
    settings = {
        "model": {"network": {"init_args": {"backbone": backbone, "width": 4}}},
        "data": {
            **{f"{kind}_transform": {"init_args": {"resize": 8, "crop": 8}} for kind in ("train", "eval")},
            **{"source_batch": 4, "target_batch": 4, "workers": 0, "steps_per_epoch": 2},
            **{"source_validation": 0.2, "target_validation": 0.2, "target_test": 0.3},
            **data,
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    path = Path(folder) / "own.yaml"
    path.write_text(json.dumps(settings))
    return path


def run(subcommand, folder, *args, method="both", source="source", target="target", **data):
    """A subcommand on `folder/source` and `folder/target`, written to `folder/run`."""
    main(
        [
            subcommand,
            "--config=folders.yaml",
            f"--config={method}.yaml",
            f"--config={config(folder, **data)}",
            f"--data.source.root={folder / source}",
            f"--data.target.root={folder / target}",
            f"--output={folder / 'run'}",
            *SILENT,
            *args,
        ]
    )
