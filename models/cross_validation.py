"""Classifiers on features of pictures by cross-validation; what is computed once is kept in files."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.folds import stratified_split
from fastmmd.models.data.images import EvalTransform, match
from fastmmd.models.experiment import code_digest
from fastmmd.models.files import write_atomically
from fastmmd.models.handcrafted import describe
from fastmmd.models.networks.backbones import EfficientNetLite0
from fastmmd.models.networks.network import Layers
from fastmmd.models.trained import load_trained

HANDCRAFTED = "hand-crafted"

# Name of a classifier, features [n, d], labels [n] and folds [n] to probabilities [n, classes].
Scores = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Features:
    """Features of pictures by their name: `HANDCRAFTED`, those of `handcrafted.describe`, or a network's.

    Args:
        networks: name -> checkpoint of `python -m fastmmd.models fit`, whose layers and transform are taken, or "lite0"
            for EfficientNet-Lite0 with the ImageNet weights that come as a package.
        folder: where they are kept, see `CachedFeatures`.
        workers: loader processes.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a network is called `HANDCRAFTED`.
    """

    networks: Mapping[str, str]
    folder: Path
    workers: int = 0

    def __post_init__(self) -> None:
        for name, path in self.networks.items():
            if name == HANDCRAFTED:
                raise ValueError(f"networks: expected another name than {name!r}, which is taken, for {path!r}")
            if path != "lite0" and not Path(path).is_file():
                raise FileNotFoundError(
                    f"networks: expected 'lite0' or a checkpoint for {name!r}, got no file {path!r}"
                )

    def of(self, domain: Dataset, name: str) -> np.ndarray:
        """[items, d] float32 of a whole data set."""
        if name == HANDCRAFTED:
            backbone, transform = nn.Identity(), describe
        elif self.networks[name] == "lite0":
            backbone, transform = EfficientNetLite0(), EvalTransform()
            match(transform, backbone.preprocessing)
        else:
            trained = load_trained(Path(self.networks[name]))
            backbone, transform = Layers(trained.network), trained.transform
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return CachedFeatures(domain, backbone, transform, self.folder, device, self.workers).features.numpy()


@dataclass(frozen=True)
class Method:
    """A classifier on features.

    Args:
        name: for people.
        features: name of a network, or `HANDCRAFTED`.
        estimator: name of the classifier, see `classifiers`.
    """

    name: str
    features: str
    estimator: str


@dataclass(frozen=True)
class Divided:
    """The items of a data set that are classified, and the fold in which each is tested.

    Args:
        items: [n] their numbers in the data set.
        names: [n].
        labels: [n] indices into `classes`.
        folds: [n], from 0.
        classes: names in label order.
        left_out: class -> its number of items, of classes that have too few.
    """

    items: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray
    classes: tuple[str, ...]
    left_out: Mapping[str, int]


def divide(domain: Dataset, folds: int, seed: int, least: int = 1) -> Divided:
    """Leaves out the classes with less than `least` items, and divides the others as `stratified_split`.

    Items of one of the domain's `groups`, if it has such, stay in one fold.

    Raises:
        ValueError: less than two classes are left, or `stratified_split` refuses them.
    """
    counts = Counter(domain.classes[target] for target in domain.targets)
    classes = tuple(name for name in domain.classes if counts[name] >= least)
    left_out = {name: counts[name] for name in domain.classes if name not in classes}
    if len(classes) < 2:
        raise ValueError(f"expected two classes of at least {least} items, got {dict(counts)}")
    items = [item for item, target in enumerate(domain.targets) if domain.classes[target] in classes]
    names = [domain.names[item] for item in items]
    labels = [domain.classes[domain.targets[item]] for item in items]
    groups = [domain.groups[item] for item in items] if hasattr(domain, "groups") else None
    split = stratified_split(names, labels, classes, seed, folds, groups)
    tested = {name: k for k, fold in enumerate(split.folds) for name in fold.test}
    return Divided(
        np.array(items),
        tuple(names),
        np.array([classes.index(label) for label in labels]),
        np.array([tested[name] for name in names]),
        classes,
        left_out,
    )


def predict(
    name: str,
    domain: Dataset,
    divided: Divided,
    methods: Sequence[Method],
    scores: Scores,
    features: Features,
    output: Path,
) -> dict[str, np.ndarray]:
    """Method -> probabilities [n, classes] of all items, each by classifiers that were fitted to the other folds.

    Writes them to `<name>.csv`. Those of each method are kept in `scores`, and computed again only if its features,
    labels, folds or the code are other ones.

    Args:
        name: of the data set, for files.
        domain, divided: the data set.
        methods: what is compared.
        scores: what fits and tests.
        features: of the pictures.
        output: folder of all that is written.
    """
    names = dict.fromkeys(method.features for method in methods)
    computed = {described: features.of(domain, described)[divided.items] for described in names}
    result = {}
    for method in tqdm(methods, desc=f"{name}: classifiers", unit="method"):
        arrays = (computed[method.features], divided.labels, divided.folds)
        digest = hashlib.sha256(f"{method.estimator} {sklearn.__version__} {code_digest()}".encode())
        for array in arrays:
            digest.update(array.tobytes())
        path = output / "scores" / f"{name}-{digest.hexdigest()[:16]}.npy"
        if not path.is_file():
            found = scores(method.estimator, *arrays)
            with write_atomically(path, "wb") as file:
                np.save(file, found)
        result[method.name] = np.load(path)
    _write_csv(result, divided, output / f"{name}.csv")
    return result


def _write_csv(found: Mapping[str, np.ndarray], divided: Divided, path: Path) -> None:
    """Writes a row an item and method: method, item, fold, label, p_<class>..."""
    with write_atomically(path) as file:
        writer = csv.writer(file)
        writer.writerow(["method", "item", "fold", "label", *(f"p_{name}" for name in divided.classes)])
        for method, rows in found.items():
            for item, fold, label, row in zip(divided.names, divided.folds, divided.labels, rows, strict=True):
                writer.writerow([method, item, fold, divided.classes[label], *(f"{p:.6f}" for p in row)])
