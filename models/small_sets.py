"""`python -m fastmmd.models.small_sets`: the experiments of Rao, Xu & Xu on small sets, of which no network is trained.

    python -m fastmmd.models.small_sets emotions --root.artphoto data/ArtPhoto --root.abstract data/Abstract
    python -m fastmmd.models.small_sets mart --root data/MART --networks '{"MldrNet": "runs/fi/checkpoints/last.ckpt"}'
    python -m fastmmd.models.small_sets emoji "[node_modules/@iconify-json/noto, node_modules/@iconify-json/twemoji]"
    python -m fastmmd.models.small_sets emotions --demo true       # on generated pictures, in minutes

Features of every image are computed once, by trained networks and by `handcrafted.describe`; classifiers on them are
trained and tested by cross-validation. For each data set the output folder holds a table (`<set>.md`, `.tex`), a figure
(`<set>.png`, `.pdf`) and all predictions: `<set>.csv`, a row an item and method; of MART `mart/<method>.csv`, for
`analysis.predictions`, and `mart/split.json`. An interrupted command continues where it was: `features` and `scores`
beside them keep what is finished.

The default network, "lite0", takes the extra `pretrained` (pip install 'fastmmd[pretrained]'); drawing `emoji` takes
the extra `emoji`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from sklearn.metrics import confusion_matrix
from torch.utils.data import Dataset

from fastmmd.models.analysis import figures, one_against_all, published
from fastmmd.models.analysis.one_against_all import Rates
from fastmmd.models.analysis.predictions import write_predictions
from fastmmd.models.analysis.tables import Table
from fastmmd.models.classifiers import held_out
from fastmmd.models.cross_validation import LITE0, Divided, Features, Method, divide, predict
from fastmmd.models.data.demo import INVENTED, write_abstract_set, write_emotion_sets, write_mart_set
from fastmmd.models.data.emoji import Emoji, Vendors
from fastmmd.models.data.readers import read_domain
from fastmmd.models.fixed_features import HANDCRAFTED
from fastmmd.models.results import Summary, summary_table

# What there is before anything has been trained.
NETWORKS = {"EfficientNet-Lite0": LITE0}
# Side of the drawings in pixels: what photographs are resized to for most networks.
SIDE = 256


@dataclass(frozen=True)
class Roots:
    """Folders of the data sets, each in a layout that its reader in `data.readers` knows.

    Args:
        artphoto: ArtPhoto.
        abstract: Abstract.
        iaps: IAPS-Subset.
    """

    artphoto: Path | None = None
    abstract: Path | None = None
    iaps: Path | None = None


TITLES = {"artphoto": "ArtPhoto", "abstract": "Abstract", "iaps": "IAPS-Subset"}


def emotions(
    root: Roots = Roots(),
    networks: Mapping[str, str] = NETWORKS,
    folds: int = 5,
    min_per_class: int = 10,
    seed: int = 0,
    demo: bool = False,
    skip_unreadable: bool = False,
    workers: int = 0,
    output: Path | None = None,
) -> None:
    """Figures 8 to 10: each emotion against all others on ArtPhoto, Abstract and IAPS-Subset.

    Only a last layer is trained, logistic regression on a network's features; hand-crafted ones are classified by naive
    Bayes as well. Machajdik & Hanbury's measure is taken from the predictions of all folds together.

    The paper leaves out anger where it has too few images, which are three of Abstract and eight of IAPS-Subset. How
    many are enough it does not say; with ten, each of five folds tests two.

    Args:
        root: where the data sets are; those given are used.
        networks: name -> checkpoint of `python -m fastmmd.models fit`, or "lite0" for EfficientNet-Lite0 with the
            ImageNet weights that come as a package. One whose source or target is a tested set has seen the images
            that it would be tested on, and is refused.
        folds: of the stratified cross-validation.
        min_per_class: a class with less images is left out, with its images.
        seed: of the folds.
        demo: use generated pictures with invented labels, written into `output`; shows that all works, and nothing
            about emotions.
        skip_unreadable: leave out images that cannot be decoded (all are decoded first) and do not stop.
        workers: loader processes for the features.
        output: folder of all that is written; if not given, runs/small_sets, or runs/small_sets-demo.

    Raises:
        ValueError: no root, or one beside `demo`; `min_per_class` below `folds`; less than two classes are left; a
            network that has seen a tested set, or is called as another method.
        FileNotFoundError: no such checkpoint.
    """
    output = output or default_output(demo)
    if demo:
        refuse_root(root if root != Roots() else None)
        pictures = write_emotion_sets(output / "data", shrink={"artphoto": 1, "iaps": 1})
        root = Roots(**pictures, abstract=write_abstract_set(output / "data"))
    roots = {name: path for name, path in asdict(root).items() if path is not None}
    if not roots:
        raise ValueError(f"root: expected a folder for at least one of {', '.join(TITLES)}, or --demo true; got none")
    if min_per_class < folds:
        raise ValueError(f"min_per_class: expected at least the {folds} folds, got {min_per_class}")
    features = Features(networks, output / "features", workers)
    domains = {name: read_domain(name, str(path), skip_unreadable=skip_unreadable) for name, path in roots.items()}
    features.refuse_seen(domain.root for domain in domains.values())
    parts = {name: divide(domain, folds, seed, min_per_class) for name, domain in domains.items()}
    for name, domain in domains.items():
        compare(name, TITLES[name], domain, parts[name], features, output, INVENTED if demo else "")


def emoji(
    folders: Sequence[Path],
    networks: Mapping[str, str] = NETWORKS,
    folds: int = 5,
    seed: int = 0,
    workers: int = 0,
    output: Path | None = None,
) -> None:
    """The same for faces of emoji, real drawings of several vendors in Mikels' eight emotions.

    Which face is which emotion is our choice (`data.emoji.EMOTIONS`). The drawings of one face stay in one fold. They
    depend on each other, so the figure has no intervals.

    Args:
        folders: of icon sets, see `data.emoji`.
        networks: name -> checkpoint, or "lite0", as in `emotions`.
        folds: of the stratified cross-validation.
        seed: of the folds.
        workers: loader processes for the features.
        output: folder of all that is written; if not given, runs/small_sets.

    Raises:
        ValueError: an emotion has less faces than there are folds; two sets of one vendor; a network as in `emotions`.
        FileNotFoundError: no such checkpoint or icon set.
    """
    output = output or default_output()
    features = Features(networks, output / "features", workers)
    features.refuse_seen(folders)
    sets = [Emoji(one, labels="emotions", size=SIDE) for one in folders]
    domain = Vendors(sets)
    divided = divide(domain, folds, seed)
    if divided.left_out:
        raise ValueError(f"folders: expected faces of every emotion, got none of {', '.join(divided.left_out)}")
    title = f"Emoji ({', '.join(one.vendor for one in sets)})"
    compare("emoji", title, domain, divided, features, output)


def mart(
    root: Path | None = None,
    networks: Mapping[str, str] = NETWORKS,
    folds: int = 10,
    seed: int = 0,
    demo: bool = False,
    skip_unreadable: bool = False,
    workers: int = 0,
    output: Path | None = None,
) -> None:
    """Table IV: positive and negative abstract paintings of MART.

    Logistic regression on networks' features, a support vector machine and the Lasso on hand-crafted ones, beside what
    is published. The published Lasso had other features.

    Args:
        root: folder of MART, in a layout that `read_mart` knows.
        networks: name -> checkpoint, or "lite0", as in `emotions`.
        folds: of the stratified cross-validation.
        seed: of the folds.
        demo: use generated paintings with invented scores, written into `output`.
        skip_unreadable: as in `emotions`.
        workers: loader processes for the features.
        output: folder of all that is written; if not given, runs/small_sets, or runs/small_sets-demo.

    Raises:
        ValueError: no root, or one beside `demo`; a class has less images than there are folds; a network as in
            `emotions`.
        FileNotFoundError: no such checkpoint.
    """
    output = output or default_output(demo)
    if demo:
        refuse_root(root)
        root = write_mart_set(output / "data")
    if root is None:
        raise ValueError("root: expected the folder of MART, or --demo true; got none")
    features = Features(networks, output / "features", workers)
    domain = read_domain("mart", str(root), skip_unreadable=skip_unreadable)
    features.refuse_seen([domain.root])
    divided = divide(domain, folds, seed)
    methods = [
        *(Method(name, name, "logistic") for name in networks),
        Method(f"{HANDCRAFTED}, SVM", HANDCRAFTED, "svm"),
        Method(f"{HANDCRAFTED}, Lasso", HANDCRAFTED, "lasso"),
    ]
    found = predict("mart", domain, divided, methods, held_out, features, output)
    divided.split.write(output / "mart" / "split.json")
    for name, one in found.items():
        write_predictions(output / "mart" / f"{name}.csv", divided.names, divided.labels, one, divided.classes)
    notes = (
        f"{len(divided.names)} paintings, each tested once; mean ± standard deviation (n - 1) over {folds} stratified "
        f"folds. Of networks only a last layer was trained here. {INVENTED if demo else 'Published: Rao, Xu & Xu.'}"
    )
    accuracies = {"MART": {name: summary(one, divided) for name, one in found.items()}}
    table = summary_table(accuracies, found, None if demo else {"MART": published.MART}, notes)
    table.write(output / "mart.md", "Positive and negative paintings of MART", "tab:mart")
    matrices = {name: confusion_matrix(divided.labels, one.argmax(axis=1)) for name, one in found.items()}
    title = f"MART, {folds} folds together" + (f"\n{INVENTED}" if demo else "")
    figures.by_class(matrices, divided.classes, output / "mart.png", title)
    print(f"\n{table.markdown()}\nTable, figure and predictions: {output}")


def default_output(demo: bool = False) -> Path:
    """Where results are written if nothing else is asked for."""
    return Path("runs/small_sets-demo" if demo else "runs/small_sets")


def refuse_root(root: Roots | Path | None) -> None:
    """A demonstration has pictures of its own."""
    if root is not None:
        raise ValueError(f"root: expected none with --demo true, which generates its pictures, got {root}")


def compare(
    name: str,
    title: str,
    domain: Dataset,
    divided: Divided,
    features: Features,
    output: Path,
    remark: str = "",
) -> None:
    """Tells each class from all others with every method; writes and prints the table and draws the figure.

    Args:
        name, title: of the data set, for files and for people.
        domain, divided: the data set.
        features: of the pictures.
        output: folder of all that is written.
        remark: what is to be said of the data set.
    """
    methods = [
        *(Method(name, name, "logistic") for name in features.networks),
        Method(f"{HANDCRAFTED}, logistic", HANDCRAFTED, "logistic"),
        Method(f"{HANDCRAFTED}, naive Bayes", HANDCRAFTED, "naive_bayes"),
    ]
    found = predict(name, domain, divided, methods, one_against_all.scores, features, output)
    one_against_all.write_scores(
        output / f"{name}.csv", divided.names, divided.folds, divided.labels, found, divided.classes
    )
    rates = {method: one_against_all.rates(one, divided.labels) for method, one in found.items()}
    absent = ", ".join(f"{emotion} ({count})" for emotion, count in divided.left_out.items())
    left_out = f"Left out for too few images: {absent}." if absent else ""
    folds = len(np.unique(divided.folds))
    notes = (
        f"{len(divided.names)} images, each tested once in {folds} folds; rates over all folds together. Of networks "
        "only a last layer was trained here."
    )
    table = rates_table(rates, divided.classes, " ".join(filter(None, (notes, left_out, remark))))
    table.write(output / f"{name}.md", f"Each emotion against all others on {title}", f"tab:{name}")
    heading = "\n".join(filter(None, (f"{title}, {folds} folds together", left_out, remark)))
    independent = not hasattr(domain, "groups")
    figures.one_against_all(rates, divided.classes, output / f"{name}.png", heading, independent)
    print(f"\n{table.markdown()}\nTable, figure and predictions: {output}")


def rates_table(rates: Mapping[str, Rates], classes: Sequence[str], notes: str) -> Table:
    """Two rows a method, true-positive rates and means of both sides' rates; a column a class, and their mean."""
    rows = []
    for method, one in rates.items():
        for measure, values in (("true positives", one.positive), ("both sides", one.both)):
            rows.append((method, measure, *(f"{value:.1f}" for value in (*values, values.mean()))))
    measures = (
        "True positives: part of a class's images that its own classifier finds. Both sides: mean of that and of the "
        "part of all other images that it rejects, the measure of Machajdik & Hanbury; chance is 50."
    )
    return Table(("method", "rate, %", *classes, "mean"), rows, f"{measures} {notes}")


def summary(found: np.ndarray, divided: Divided) -> Summary:
    """Accuracy of each fold and of all together."""
    correct = found.argmax(axis=1) == divided.labels
    folds = [correct[divided.folds == fold] for fold in np.unique(divided.folds)]
    return Summary(tuple(100 * float(one.mean()) for one in folds), int(correct.sum()), len(correct))


if __name__ == "__main__":
    auto_cli([emotions, emoji, mart], prog="python -m fastmmd.models.small_sets")
