import sys

import pytest
import torch
from torch import nn

from bench import training
from bench.cases import JAN, Case
from bench.competitors import FASTMMD, NAIVE
from tests.bench.test_gate import CPU

CASE = Case("tiny", 6, 6, (16, 3), JAN)


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        features = self.trunk(images)
        return features, self.head(features)


def test_shares_of_a_step():
    shares = list(training.shares(CPU, 3, 0.05, Tiny, CASE, (3, 8, 8)))
    assert [(s.precision, s.loss) for s in shares] == [
        (precision, loss) for precision in ("fp32", "bf16 autocast") for loss in (FASTMMD, NAIVE)
    ]
    for share in shares:
        assert share.skipped is None
        assert share.seconds.p50 > 0
        assert -1 < share.share.p50 < 1


def test_without_torchvision_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    shares = list(training.shares(CPU, 3, 0.05))
    assert len(shares) == 4
    assert all("is not installed" in share.skipped for share in shares)


def test_the_network_gives_what_the_case_says():
    pytest.importorskip("torchvision")
    features, logits = training.ResNet50(31)(torch.randn(2, 3, 32, 32))
    assert (features.shape[1], logits.shape[1]) == training.TRAINING.dims
