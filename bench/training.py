"""What the loss takes of a real training step: ResNet-50, forward and backward, on images of both domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import measure
from bench.cases import TRAINING, Case
from bench.competitors import FASTMMD, NAIVE, Loss, line_up
from bench.measure import Mark, Phases, Step
from bench.report import StepShare

IMAGES = (3, 224, 224)
PRECISIONS = {"fp32": None, "bf16 autocast": torch.bfloat16}


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
    """Of the naive loss and of fastmmd's, at each precision of the network. `network`: from a number of classes."""
    makes = {c.name: c.make for c in line_up() if c.name in (NAIVE, FASTMMD)}
    try:
        model = network(case.dims[1])
    except ImportError as missing:
        for precision in PRECISIONS:
            yield from (StepShare(precision, name, f"{missing.name or missing} is not installed") for name in makes)
        return
    model = model.to(device, memory_format=torch.channels_last)
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
            yield StepShare(precision, name, None, measure.Spread.of(whole), measure.Spread.of(parts))


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
