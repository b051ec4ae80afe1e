"""Runs that train no network: a classifier of scikit-learn on features that are computed once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from fastmmd.models.analysis.metrics import write_report
from fastmmd.models.analysis.predictions import write_predictions
from fastmmd.models.classifiers import classifier, probabilities
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.images import match
from fastmmd.models.experiment import Result, Run
from fastmmd.models.networks.network import Layers, Network

Described = Literal["network", "hand-crafted"]
NETWORK, HANDCRAFTED = Described.__args__


def described(
    network: Network | None = None, transform: Callable[[Any], Any] | None = None
) -> tuple[nn.Module, Callable[[Any], Any]]:
    """Backbone and transform for `CachedFeatures`: those of hand-crafted features, or of a network's layers.

    Args:
        network: whose layers are the features, side by side; hand-crafted ones if not given.
        transform: of the network's pictures.
    """
    if network is None:
        from fastmmd.models.handcrafted import Descriptors, describe  # scikit-image is slow to import

        return Descriptors(), describe
    match(transform, getattr(network, "preprocessing", None))
    return Layers(network), transform


@dataclass(frozen=True)
class FixedFeaturesRun(Run):
    """Trained and tested on the items of the run that has the same arguments.

    Args:
        task, method, seed, args, fold: as in `Run`. Nothing here is random but the split.
        features: "network" for the layers of the arguments' network, side by side, as its weights are at the start;
            "hand-crafted" for `handcrafted.describe`.
        estimator: name of the classifier, see `classifiers`.
    """

    features: Described = NETWORK
    estimator: str = "svm"

    def execute(self, root: Path) -> Result:
        """Computes the features, which all runs below `root` share, trains and tests."""
        begin = time.monotonic()
        cli = self.cli(root)
        data = cli.datamodule
        of = (cli.model.network, data.transforms["eval"]) if self.features == NETWORK else ()
        backbone, transform = described(*of)
        device = cli.trainer.strategy.root_device
        values, labels = {}, {}
        for name, items in (("source", data.items["source"][0]), ("target", data.test_items)):
            domain = CachedFeatures(data.domains[name], backbone, transform, root / "features", device, data.workers)
            values[name] = domain.features[items].numpy()
            labels[name] = np.array(domain.targets)[items]
        fitted = classifier(self.estimator).fit(values["source"], labels["source"])
        found = probabilities(fitted, values["target"], data.num_classes)
        names = [data.names["target"][item] for item in data.test_items]
        data.split.write(self.folder(root) / "split.json")
        write_predictions(self.folder(root) / "predictions.csv", names, labels["target"], found, data.classes)
        write_report(self.folder(root) / "metrics.json", labels["target"], found, data.classes)
        correct = int((found.argmax(axis=1) == labels["target"]).sum())
        return self.finish(root, cli, correct, checkpoint="no network trained", steps=0, begin=begin)
