"""Runs that train no network: a classifier of scikit-learn on features that are computed once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from fastmmd.models.analysis.predictions import write_predictions
from fastmmd.models.classifiers import classifier, probabilities
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.images import match
from fastmmd.models.experiment import Result, Run
from fastmmd.models.networks.network import Layers

Described = Literal["network", "hand-crafted"]


@dataclass(frozen=True)
class FixedFeaturesRun(Run):
    """Trained and tested on the items of the run that has the same arguments.

    Args:
        task, method, seed, args, fold: as in `Run`. Nothing here is random but the split.
        features: "network" for the layers of the arguments' network, side by side, as its weights are at the start;
            "hand-crafted" for `handcrafted.describe`.
        estimator: name of the classifier, see `classifiers`.
    """

    features: Described = "network"
    estimator: str = "svm"

    def execute(self, root: Path) -> Result:
        """Computes the features, which all runs below `root` share, trains and tests."""
        begin = time.monotonic()
        cli = self.cli(root)
        data = cli.datamodule
        if self.features == "network":
            network, transform = cli.model.network, data.transforms["eval"]
            match(transform, network.preprocessing)
            backbone: nn.Module = Layers(network)
        else:
            from fastmmd.models.handcrafted import describe  # scikit-image is slow to import

            backbone, transform = nn.Identity(), describe
        device = cli.trainer.strategy.root_device
        values, labels = {}, {}
        for name, items in (("source", data.items["source"][0]), ("target", data.test_items)):
            domain = CachedFeatures(data.domains[name], backbone, transform, root / "features", device, data.workers)
            values[name] = domain.features[items].numpy()
            labels[name] = np.array(domain.targets)[items]
        fitted = classifier(self.estimator).fit(values["source"], labels["source"])
        found = probabilities(fitted, values["target"], data.num_classes)
        names = [data.names["target"][item] for item in data.test_items]
        write_predictions(self.folder(root) / "predictions.csv", names, labels["target"], found, data.classes)
        correct = int((found.argmax(axis=1) == labels["target"]).sum())
        return self.finish(root, cli, correct, checkpoint="no network trained", steps=0, begin=begin)
