"""What the loss takes of a real training step: ResNet-50, forward and backward, on images of both domains.

python -m bench.training --out gpu.json --seconds 35      on a GPU; into a record of bench/rows.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import environment, measure
from bench.cases import TRAINING, Case, Loss
from bench.competitors import FASTMMD, NAIVE, line_up
from bench.measure import Mark, Phases, Step
from bench.record import Report, StepShare

IMAGES = (3, 224, 224)
PRECISIONS = {"fp32": None, "bf16 autocast": torch.bfloat16}
ROUNDS = 9


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--seconds", type=float, required=True, help="for all of it, about")
    options = parser.parse_args(arguments)
    device = torch.device("cuda", 0)
    report = Report.resume(options.out, environment.describe(device))
    report.training = []
    steps = len(PRECISIONS) * (1 + len(_losses()))
    for share in shares(device, ROUNDS, options.seconds / (2 * steps)):  # as much again for start and warm-up
        report.training.append(share)
        report.save(options.out)
        print(share, flush=True)
    return 0


class ResNet50(nn.Module):
    """Images to (features, logits)."""

    def __init__(self, classes: int) -> None:
        from torchvision.models import resnet50

        super().__init__()
        self.trunk = resnet50(weights=None)
        self.head = nn.Linear(self.trunk.fc.in_features, classes)
        self.trunk.fc = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images)
        return features, self.head(features)


def shares(
    device: torch.device,
    rounds: int,
    seconds: float,
    network: Callable[[int], nn.Module] = ResNet50,
    case: Case = TRAINING,
    images: tuple[int, int, int] = IMAGES,
) -> Iterator[StepShare]:
    """What the naive loss and fastmmd's take of a step, at each precision of the network.

    network: makes one, from a number of classes.
    """
    makes = _losses()
    try:
        model = network(case.dims[1])
    except ImportError as missing:
        for precision in PRECISIONS:
            yield from (StepShare(precision, name, f"{missing.name or missing} is not installed") for name in makes)
        return
    model = model.to(device).to(memory_format=torch.channels_last)
    batch = torch.randn(case.n, *images, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(case.dims[1], (case.n_source,), device=device)
    for precision, dtype in PRECISIONS.items():
        step = partial(_step, model, batch, labels, dtype)
        losses = {name: make(case) for name, make in makes.items()}
        steps = {name: step(loss) for name, loss in losses.items()}
        samples = measure.interleave({"": step(None), **steps}, device, rounds, seconds)
        without = samples[""]["both"]
        for name in losses:
            whole = samples[name]["both"]
            parts = [(a - b) / a for a, b in zip(whole, without, strict=False)]
            yield StepShare(precision, name, seconds=measure.Spread.of(whole), share=measure.Spread.of(parts))


def _losses() -> dict[str, Callable[[Case], Loss]]:
    return {competitor.name: competitor.make for competitor in line_up() if competitor.name in (NAIVE, FASTMMD)}


def _step(model: nn.Module, batch: Tensor, labels: Tensor, autocast: torch.dtype | None, loss: Loss | None) -> Step:
    parameters = list(model.parameters())
    n = len(labels)

    def step(mark: Mark) -> Phases:
        start = mark()
        with torch.autocast(batch.device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            features, logits = model(batch)
            total = functional.cross_entropy(logits[:n], labels)
            if loss is not None:
                softmax = logits.softmax(1)
                total = total + loss((features[:n], softmax[:n]), (features[n:], softmax[n:]))
        torch.autograd.grad(total, parameters)
        return {"both": (start, mark())}

    return step


if __name__ == "__main__":
    sys.exit(main())
