"""`python -m fastmmd.models.mldrnet`: the experiments of Rao, Xu & Xu with MldrNet on Flickr and Instagram.

    python -m fastmmd.models.mldrnet --root data/FI depth          # their table I
    python -m fastmmd.models.mldrnet --root data/FI fusion         # their table II
    python -m fastmmd.models.mldrnet --root data/FI methods        # their table III and figure 6
    python -m fastmmd.models.mldrnet --root data/FI pictures       # their figures 2, 5 and 7
    python -m fastmmd.models.mldrnet --root data/FI --artphoto data/ArtPhoto transfer
    python -m fastmmd.models.mldrnet --demo true depth             # on generated pictures, in minutes
    python -m fastmmd.models.mldrnet digits                        # transfer between digits, which come with packages

The experiments on small sets are those of `fastmmd.models.small_sets`. All commands with one `--output` share their
runs: MldrNet with four levels and the mean is trained once for all. The output folder holds for each command a table
(`.md`, `.tex`), a row a run (`.csv`) and figures (`.png`, `.pdf`); below each run's `folder`, which the csv names, lie
its predictions and its split, and of a trained network checkpoints and logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from joblib import cpu_count
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor

from fastmmd.models.analysis import distributions, figures, filters, published, retrieval
from fastmmd.models.analysis.predictions import Predictions, read_predictions
from fastmmd.models.analysis.tables import Table
from fastmmd.models.arms import PAPER, Arm, Weights, compared, mldrnet, transferred
from fastmmd.models.data.demo import INVENTED, write_emotion_sets, write_noisy_fi
from fastmmd.models.data.readers import read_domain
from fastmmd.models.experiment import Checkpoint, Result, Run, execute_all
from fastmmd.models.module import DOMAINS
from fastmmd.models.networks.mldrnet import Fusion
from fastmmd.models.results import method_table, summaries, write_csv
from fastmmd.models.trained import load_trained

Labels = Literal["well", "noisy"]
LABELS = Labels.__args__
Args = tuple[str, ...]

# Names for people: training sets, and pairs of source and target.
TASKS = {
    "well": "well labelled",
    "noisy": "noisy labels",
    "fi_artphoto": "FI to ArtPhoto",
    "mnist": "MNIST-5k to optdigits",
    "fonts": "fonts to optdigits",
}
DIGITS = {"mnist": "fastmmd.models.data.Mnist5k", "fonts": "fastmmd.models.data.FontDigits"}
# What a demonstration leaves out: these begin with ImageNet's weights, and the last two are too large.
PRETRAINED = ("AlexNet + SVM", "VGG-19", "ResNet-101")


class Experiments:
    """The paper's experiments on one data set; run a command again to continue after an interruption.

    The division into 80 % training, 15 % test and 5 % validation images of each class is fold 0 of `floor_split`: the
    paper's own is not published. Noisy training sets hold all images that raters rejected too (77.9 % in the paper);
    the test never does. They are trained on for as many steps as well-labelled ones, so each of their images is seen
    less often. Copies of held-out images are left out of training, but for ArtPhoto's in `transfer`.
    """

    def __init__(
        self,
        root: Path | None = None,
        artphoto: Path | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        demo: bool = False,
        skip_unreadable: bool = False,
        output: Path | None = None,
        checkpoint: Checkpoint = "last",
        jobs: int | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """Names the data, and what all runs have in common.

        Args:
            root: folder of Flickr and Instagram, in a layout that `read_fi` knows; noisy labels need the votes.
            artphoto: folder of ArtPhoto, for `transfer`.
            seeds: of initial weights, batches and dropout.
            demo: use generated pictures with invented labels, written into `output`, and the small network of
                `mldrnet_small.yaml`; shows that all works, and nothing about emotions.
            skip_unreadable: leave out images that cannot be decoded, with a warning that names them, and do not stop.
                Each run then decodes all images first.
            output: folder of all that is written; if not given, runs/mldrnet, or runs/mldrnet-demo.
            checkpoint: tested weights: the last, or the best on the validation images.
            jobs: runs at a time, one thread each; if not given, one where the runs use a GPU, else as many as there are
                cores.
            overrides: further arguments for every run, such as --config=own.yaml or --data.workers=8.

        Raises:
            ValueError: a folder for a demonstration, which uses none.
        """
        if demo and (root or artphoto):
            raise ValueError(f"demo: expected no root and artphoto beside it, got {root or artphoto}")
        self.output = output or Path("runs/mldrnet-demo" if demo else "runs/mldrnet")
        self.roots = {"root": root, "artphoto": artphoto}
        self.seeds = seeds
        self.demo = demo
        self.checkpoint = checkpoint
        self.jobs = jobs
        self.configs = ("--config=mldrnet.yaml", *(["--config=mldrnet_small.yaml"] if demo else []))
        self.readers = tuple(f"--data.{domain}.skip_unreadable={str(skip_unreadable).lower()}" for domain in DOMAINS)
        self.overrides = tuple(overrides)

    def depth(self, depths: Sequence[int] = (2, 3, 4, 5, 6), plain: bool = False) -> None:
        """Table I, accuracy against the number of convolutional layers, and `depth.png`.

        Args:
            depths: numbers of layers.
            plain: also train the networks without side branches, a control that the paper does not have.
        """
        lines = {"MldrNet": {depth: mldrnet(depth) for depth in depths}}
        if plain:
            lines["one branch, after the last layer"] = {depth: mldrnet(depth, levels="last") for depth in depths}
        arms = {f"{line}, {depth} layers": arm for line, row in lines.items() for depth, arm in row.items()}
        reported = {f"MldrNet, {depth} layers": accuracy for depth, accuracy in published.DEPTH.items()}
        results = self._execute(self._runs({"well": arms}))
        self._write("depth", results, arms, {"well": reported})
        found = summaries(results)["well"]
        points = {name: {d: found[arm.key].accuracies for d, arm in row.items()} for name, row in lines.items()}
        shown = None if self.demo else {"MldrNet": published.DEPTH}
        figures.sweep(points, self.output / "depth.png", self._note(), "convolutional layers", shown)

    def fusion(
        self,
        fusions: Sequence[Fusion] = ("concat", "max", "min", "mean"),
        labels: Sequence[Labels] = ("well", "noisy"),
    ) -> None:
        """Table II, the fusions on well and on noisily labelled training sets, and `fusion.png`.

        Args:
            fusions: ways to put the levels together.
            labels: the training sets.
        """
        arms = {name: mldrnet(fusion=name) for name in fusions}
        results = self._execute(self._runs(dict.fromkeys(labels, arms)))
        self._write("fusion", results, arms, published.FUSION)
        self._draw("fusion", results, arms)

    def methods(
        self,
        names: Sequence[str] | None = None,
        labels: Sequence[Labels] = ("well",),
        weights: Weights = PAPER,
    ) -> None:
        """Table III, MldrNet beside other networks and features, `methods.png`, and figure 6, `confusion_<labels>.png`.

        Args:
            names: the methods, such as "AlexNet" and "MldrNet"; if not given, all (see `arms.compared`), in a
                demonstration without those that begin with ImageNet's weights.
            labels: the training sets; the paper's figure 6 has both.
            weights: where the compared networks begin.

        Raises:
            ValueError: there is no such method.
        """
        known = compared(weights)
        names = names or [name for name in known if not (self.demo and name in PRETRAINED)]
        if absent := [name for name in names if name not in known]:
            raise ValueError(f"names: expected some of {', '.join(known)}; got {', '.join(absent)}")
        arms = {name: known[name] for name in names}
        results = self._execute(self._runs(dict.fromkeys(labels, arms)))
        self._write("methods", results, arms, {"well": published.FI})
        self._draw("methods", results, arms)
        for task in labels:
            found = self._predictions([run for run in results if run["task"] == task], arms)
            classes = next(iter(found.values())).classes
            matrices = {name: one.confusion for name, one in found.items()}
            title = self._note(f"{TASKS[task]}, all runs of a method together")
            figures.confusions(matrices, classes, self.output / f"confusion_{task}.png", title)

    def pictures(self, images: int = 8, top: int = 5) -> None:
        """Figures 2, 5 and 7 from the first run of MldrNet: `retrieval.png`, `filters.png` and `distributions.png`.

        Args:
            images: test images whose emotion distribution is shown.
            top: images of each class, and patches of each filter.
        """
        run = self._runs({"well": {"MldrNet": mldrnet()}})[0]
        self._execute([run])
        folder = run.folder(self.output)
        found = read_predictions(folder / "predictions.csv")
        trained = load_trained(folder / "checkpoints" / f"{self.checkpoint}.ckpt")
        data = run.cli(self.output).datamodule
        tested = data.domains["target"].subset(data.test_items)

        def centre(picture: Image.Image) -> Tensor:
            crops = trained.transform(picture)
            return crops[-1] if crops.ndim == 4 else crops

        excited = filters.strongest(trained.network, tested, centre, top)
        filters.draw(excited, self.output / "filters.png", self._note())
        names = distributions.choose(found, images)
        distributions.draw(tested, {"MldrNet": found}, names, self.output / "distributions.png", self._note())
        retrieval.draw(tested, found, self.output / "retrieval.png", top, self._note())
        shares = retrieval.precision(found, top)
        rows = [(name, f"{share:.2f}") for name, share in zip(found.classes, shares, strict=True)]
        table = Table(("class", f"precision at {top}"), rows, self._note() or "")
        table.write(self.output / "retrieval.md", "Precision of the first images of each class", "tab:retrieval")
        self._show(table)

    def transfer(self, joint: float = 0.3, marginal: float = 0.3) -> None:
        """From Flickr and Instagram to ArtPhoto without its labels, with terms over one level or all; `transfer.png`.

        Neither paper has this experiment. Half of ArtPhoto, drawn at random, is tested.

        Args:
            joint: lambda, the weight of a JMMD. MldrNet has no batch norm, without which a term of full weight can
                shrink the features to nothing, see `mldrnet_digits.yaml`.
            marginal: eta, the weight of the MMD of all levels together, of which each has an equal part.

        Raises:
            ValueError: no folder of one of the two.
        """
        task = (
            *self.configs,
            "--config=fi_artphoto.yaml",
            f"--data.source.root={self._folder('root')}",
            f"--data.target.root={self._folder('artphoto')}",
            *("--data.exclude_held_out=false", "--data.fold=null", "--data.target_test=0.5"),
            *self.readers,
        )
        self._transferred("transfer", {"fi_artphoto": task}, transferred(joint, marginal))

    def digits(self, joint: float = 0.3, marginal: float = 0.3) -> None:
        """The same terms between real digits, on a MldrNet with two levels (`mldrnet_digits.yaml`); `digits.png`.

        Args:
            joint, marginal: lambda and eta, as in `transfer`.
        """
        configs = ("--config=digits.yaml", "--config=mldrnet_digits.yaml")
        tasks = {name: (*configs, f"--data.source={source}") for name, source in DIGITS.items()}
        self._transferred("digits", tasks, transferred(joint, marginal, depth=2))

    def _transferred(self, name: str, tasks: Mapping[str, Args], arms: Mapping[str, Arm]) -> None:
        """Trains every arm on every task, and writes the table and figure of a command."""
        runs = [
            arm.run(task, seed, args, self.overrides, self.checkpoint)
            for task, args in tasks.items()
            for arm in arms.values()
            for seed in self.seeds
        ]
        results = self._execute(runs)
        self._write(name, results, arms)
        self._draw(name, results, arms)

    def _runs(self, arms: Mapping[Labels, Mapping[str, Arm]]) -> list[Run]:
        """The runs of arms on training sets: labels -> name -> arm. Fixed features have one, for nothing is random."""
        root = self._folder("root")
        if "noisy" in arms:
            read_domain("fi", root, {"labels": "noisy"})  # without votes it fails here, before any run
        args = (*self.configs, *(f"--data.{domain}.root={root}" for domain in DOMAINS), *self.readers)
        noise = {"well": (), "noisy": ("--data.source.options={labels: noisy}",)}
        return [
            arm.run(labels, seed, (*args, *noise[labels]), self.overrides, self.checkpoint, fold=0)
            for labels, by_name in arms.items()
            for arm in by_name.values()
            for seed in (self.seeds if arm.fixed is None else [0])
        ]

    def _execute(self, runs: Sequence[Run]) -> list[Result]:
        on_gpu = torch.cuda.is_available() and not self.demo and runs[0].task not in DIGITS
        return execute_all(runs, self.output, self.jobs or (1 if on_gpu else cpu_count()))

    def _folder(self, name: str) -> str:
        """A data set's folder, by the name of its argument; in a demonstration an absent set is written."""
        if self.demo:
            data = self.output / "data"
            folder = write_noisy_fi(data) if name == "root" else write_emotion_sets(data, shrink={name: 1})[name]
        else:
            folder = self.roots[name]
        if folder is None:
            titles = {"root": "Flickr and Instagram", "artphoto": "ArtPhoto"}
            raise ValueError(f"{name}: expected the folder of {titles[name]}, or --demo true; got neither")
        return str(folder.absolute())

    def _predictions(self, results: Sequence[Result], arms: Mapping[str, Arm]) -> dict[str, Predictions]:
        """Name of the arm -> the predictions of its runs."""
        names = {arm.key: name for name, arm in arms.items()}
        paths: dict[str, list[Path]] = {}
        for run in results:
            paths.setdefault(names[run["method"]], []).append(self.output / run["folder"] / "predictions.csv")
        return {name: read_predictions(*files) for name, files in paths.items()}

    def _write(
        self,
        name: str,
        results: Sequence[Result],
        arms: Mapping[str, Arm],
        reported: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Writes and prints the table of a command; what is published stands beside results on the real set only."""
        write_csv(results, self.output / f"{name}.csv")
        invented = self.demo and results[0]["task"] not in DIGITS  # digits are real in a demonstration too
        shown = None if invented or reported is None else {TASKS[task]: row for task, row in reported.items()}
        one_set = results[0]["task"] in LABELS
        notes = [
            "Trained on the set's own labels." if one_set else "Target labels ignored in training.",
            INVENTED if invented else "Published: Rao, Xu & Xu." if shown else "",
        ]
        table = method_table(
            results, TASKS, {arm.key: label for label, arm in arms.items()}, shown, " ".join(filter(None, notes))
        )
        table.write(self.output / f"{name}.md", f"MldrNet: {name}", f"tab:{name}")
        self._show(table)

    def _draw(self, name: str, results: Sequence[Result], arms: Mapping[str, Arm]) -> None:
        """Draws the accuracies of a command."""
        labels = {arm.key: label for label, arm in arms.items()}
        accuracies = {
            TASKS[task]: {labels[key]: one.accuracies for key, one in row.items()}
            for task, row in summaries(results).items()
        }
        title = "bars: means, points: runs, one a seed"
        title = title if results[0]["task"] in DIGITS else self._note(title)
        figures.methods(accuracies, title, self.output / f"{name}.png")

    def _note(self, title: str = "") -> str | None:
        """The title of a figure, with what a demonstration has to say."""
        return "\n".join(filter(None, (title, INVENTED if self.demo else ""))) or None

    def _show(self, table: Table) -> None:
        print(f"\n{table.markdown()}\nTables, figures and runs: {self.output}")


if __name__ == "__main__":
    auto_cli(Experiments, prog="python -m fastmmd.models.mldrnet")
