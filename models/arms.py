"""What the experiments with MldrNet compare, as arguments of the command line behind `mldrnet.yaml`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastmmd.models.experiment import Checkpoint, Run
from fastmmd.models.fixed_features import HANDCRAFTED, NETWORK, Described, FixedFeaturesRun
from fastmmd.models.networks.mldrnet import Fusion, Levels

INIT = "--model.network.init_args"


@dataclass(frozen=True)
class Arm:
    """One way to train, or to classify fixed features.

    Args:
        key: what its runs are called. Arms with the same key have the same arguments, so that their runs are shared.
        args: arguments of the command line.
        fixed: features and estimator of a `FixedFeaturesRun`; a network is trained if not given.
    """

    key: str
    args: tuple[str, ...] = ()
    fixed: tuple[Described, str] | None = None

    def run(
        self,
        task: str,
        seed: int,
        args: Sequence[str],
        overrides: Sequence[str],
        checkpoint: Checkpoint,
        fold: int | None = None,
    ) -> Run:
        """One run: the task's arguments, those of the arm, and overrides. Fixed features know no checkpoint."""
        whole = (*args, *self.args, *overrides)
        if self.fixed is None:
            return Run(task, self.key, seed, whole, checkpoint, fold)
        features, estimator = self.fixed
        return FixedFeaturesRun(task, self.key, seed, whole, fold=fold, features=features, estimator=estimator)


@dataclass(frozen=True)
class Weights:
    """Where the compared networks begin, see `networks.Torchvision`: "imagenet", "none" or a local file.

    Args:
        alexnet: of AlexNet, which the paper does not call pretrained.
        alexnet_svm: of the AlexNet whose features the SVM sees.
        vgg19, resnet101: of these, which are pretrained in the paper.
    """

    alexnet: str = "none"
    alexnet_svm: str = "imagenet"
    vgg19: str = "imagenet"
    resnet101: str = "imagenet"


# As in the paper, as far as it says.
PAPER = Weights()


def mldrnet(depth: int = 4, fusion: Fusion = "mean", levels: Levels = "all") -> Arm:
    """MldrNet; with `levels="last"` the network without side branches, in which nothing is fused."""
    return Arm(
        f"mldrnet{depth}-{fusion}" + ("" if levels == "all" else f"-{levels}"),
        (f"{INIT}.depth={depth}", f"{INIT}.fusion={fusion}", f"{INIT}.levels={levels}"),
    )


def bigru(contrastive: bool = False) -> Arm:
    """MldrNet with Bi-GRU, on request with Zhu et al.'s second loss."""
    arm = mldrnet(fusion="gru")
    if not contrastive:
        return arm
    return Arm(f"{arm.key}-contrastive", (*arm.args, "--model.contrastive=fastmmd.models.networks.ContrastiveLoss"))


def classifier(backbone: str, **settings: str) -> tuple[str, ...]:
    """A backbone of `fastmmd.models.networks` and a linear layer in the place of MldrNet."""
    package = "fastmmd.models.networks"
    return (
        f"--model.network={package}.Classifier",
        f"{INIT}.backbone={package}.{backbone}",
        *(f"{INIT}.backbone.init_args.{name}={value}" for name, value in settings.items()),
    )


def compared(weights: Weights) -> dict[str, Arm]:
    """The methods of the paper's table III that are run here, by the names for people."""

    def torchvision(name: str, weights: str) -> tuple[str, ...]:
        return classifier("Torchvision", name=name, weights=weights)

    return {
        "Machajdik & Hanbury + SVM": Arm("handcrafted", fixed=(HANDCRAFTED, "svm")),
        "AlexNet + SVM": Arm("alexnet-svm", torchvision("alexnet", weights.alexnet_svm), (NETWORK, "svm")),
        "AlexNet": Arm("alexnet", torchvision("alexnet", weights.alexnet)),
        "A-CNN": Arm("acnn", classifier("ACNN")),
        "T-CNN": Arm("tcnn", classifier("TCNN")),
        "VGG-19": Arm("vgg19", torchvision("vgg19", weights.vgg19)),
        "ResNet-101": Arm("resnet101", torchvision("resnet101", weights.resnet101)),
        "MldrNet": mldrnet(),
        "MldrNet + Bi-GRU": bigru(),
        "MldrNet + Bi-GRU, contrastive": bigru(contrastive=True),
    }


def transferred(joint: float, marginal: float, depth: int = 4) -> dict[str, Arm]:
    """Transfer terms on the network with one branch and on MldrNet, by the names for people.

    Args:
        joint: lambda, the weight of a JMMD.
        marginal: eta, the weight of the MMD of all levels together, of which each has an equal part.
        depth: of both networks.
    """
    levels = [f"level{k}" for k in range(1, depth + 1)]
    plain, multi = mldrnet(depth, levels="last"), mldrnet(depth)
    last, every = _term(levels[-1:], joint, 0.0), _term(levels, joint, 0.0)
    return {
        "one branch, no term": plain,
        "one branch, JMMD of last level and softmax": Arm(f"{plain.key}-jmmd", (*plain.args, *last)),
        "MldrNet, no term": multi,
        "MldrNet, JMMD of last level and softmax": Arm(f"{multi.key}-jmmd-last", (*multi.args, *last)),
        "MldrNet, MMD of each level": Arm(f"{multi.key}-mmd", (*multi.args, *_term(levels, 0.0, marginal))),
        "MldrNet, JMMD of all levels and softmax": Arm(f"{multi.key}-jmmd", (*multi.args, *every)),
    }


def _term(levels: Sequence[str], joint: float, marginal: float) -> tuple[str, ...]:
    """A transfer term over levels and softmax, with the kernels of `mldrnet_jan.yaml`; it grows over the training."""
    level = {"bandwidth": "mean", "multipliers": [0.25, 0.5, 1, 2, 4], "weights": [0.2] * 5}
    kernels = [level] * len(levels) + [{"bandwidth": 1.68, "multipliers": [1]}]
    return (
        "--model.ramp=true",
        f"--model.layers={json.dumps([*levels, 'softmax'])}",
        "--model.transfer=fastmmd.TransferLoss",
        f"--model.transfer.init_args.joint={joint}",
        f"--model.transfer.init_args.marginal={json.dumps([marginal / len(levels)] * len(levels) + [0.0])}",
        f"--model.transfer.init_args.kernels={json.dumps(kernels)}",
    )
