"""Classifiers on features of pictures by cross-validation; what is computed once is kept in files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.folds import Split, stratified_split
from fastmmd.models.data.images import EvalTransform, match
from fastmmd.models.experiment import code_digest
from fastmmd.models.files import write_atomically
from fastmmd.models.fixed_features import HANDCRAFTED, described
from fastmmd.models.networks.backbones import EfficientNetLite0
from fastmmd.models.trained import load_trained

# The network whose ImageNet weights come as a package, in the place of a checkpoint.
LITE0 = "lite0"

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
            if path != LITE0 and not Path(path).is_file():
                raise FileNotFoundError(
                    f"networks: expected {LITE0!r} or a checkpoint for {name!r}, got no file {path!r}"
                )

    def refuse_seen(self, folders: Iterable[Path]) -> None:
        """Makes sure that no network was trained on what is tested.

        Args:
            folders: of the tested data sets.

        Raises:
            ValueError: a checkpoint's source or target is one of them, lies in one of them or around it.
        """
        tested = [folder.resolve() for folder in folders]
        for name, path in self.networks.items():
            for known in () if path == LITE0 else load_trained(Path(path)).folders:
                if any(known.is_relative_to(folder) or folder.is_relative_to(known) for folder in tested):
                    raise ValueError(
                        f"networks: expected {name!r} to be trained on other images than those that are tested, got "
                        f"{path!r}, which was trained on {str(known)!r}"
                    )

    def of(self, domain: Dataset, name: str) -> np.ndarray:
        """[items, d] float32 of a whole data set."""
        if name == HANDCRAFTED:
            backbone, transform = described()
        elif self.networks[name] == LITE0:
            backbone, transform = EfficientNetLite0(), EvalTransform()
            match(transform, backbone.preprocessing)
        else:
            trained = load_trained(Path(self.networks[name]))
            backbone, transform = described(trained.network, trained.transform)
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
        split: the same folds by name, for a file.
    """

    items: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    split: Split


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
        split,
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

    Those of each method are kept in the folder `scores`, and computed again only if its features, labels, folds or the
    code are other ones.

    Args:
        name: of the data set, for files.
        domain, divided: the data set.
        methods: what is compared.
        scores: what fits and tests.
        features: of the pictures.
        output: folder of all that is written.

    Raises:
        ValueError: two methods of one name.
    """
    twice = [one for one, count in Counter(method.name for method in methods).items() if count > 1]
    if twice:
        raise ValueError(f"networks: expected names that no other method has, got {', '.join(map(repr, twice))}")
    used = dict.fromkeys(method.features for method in methods)
    computed = {kind: features.of(domain, kind)[divided.items] for kind in used}
    result = {}
    for method in tqdm(methods, desc=f"{name}: classifiers", unit="method"):
        arrays = (computed[method.features], divided.labels, divided.folds)
        how = f"{scores.__module__}.{scores.__qualname__} {method.estimator} {sklearn.__version__} {code_digest()}"
        digest = hashlib.sha256(how.encode())
        for array in arrays:
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
        path = output / "scores" / f"{name}-{digest.hexdigest()[:16]}.npy"
        if not path.is_file():
            found = scores(method.estimator, *arrays)
            with write_atomically(path, "wb") as file:
                np.save(file, found)
        result[method.name] = np.load(path)
    return result
