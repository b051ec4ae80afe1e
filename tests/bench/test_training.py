import sys

import pytest
import torch
from torch import nn

from bench import training
from bench.cases import JAN, Case
from bench.competitors import FASTMMD, NAIVE
from bench.report import Report, StepShare
from tests.bench.test_gate import CPU
from tests.helpers import relative

CASE = Case("tiny", 6, 6, (16, 3), JAN)


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        features = self.trunk(images)
        return features, self.head(features)


ORDER = [(precision, loss) for precision in ("fp32", "bf16 autocast") for loss in (FASTMMD, NAIVE)]


def test_every_loss_is_measured_at_every_precision():
    shares = list(training.shares(CPU, 3, 0.05, Tiny, CASE, (3, 8, 8)))
    assert [(share.precision, share.loss, share.skipped) for share in shares] == [(*names, None) for names in ORDER]


def test_every_loss_is_part_of_its_step_at_every_precision(monkeypatch):
    """The gradient of a step is the same with either loss, up to round-off, and another one without a loss."""
    last, gradients = [], []  # of the head: in the last step, and by step for each precision

    def network(classes):
        model = Tiny(classes)
        model.head.weight.register_hook(last.append)
        return model

    def once(steps, device, rounds, seconds_each):
        gradients.append({})
        for name, step in steps.items():
            step(lambda: 0.0)
            gradients[-1][name] = last.pop()
        return {name: {"both": [1.0]} for name in steps}

    monkeypatch.setattr(training.measure, "interleave", once)
    assert len(list(training.shares(CPU, 3, 0.05, network, CASE, (3, 8, 8)))) == 4
    assert len(gradients) == len(training.PRECISIONS)
    for by_step in gradients:
        between_losses = relative(by_step[FASTMMD], by_step[NAIVE])
        assert between_losses < 0.5 * relative(by_step[FASTMMD], by_step[""])


def test_the_share_is_what_the_loss_adds_round_by_round(monkeypatch):
    """A step takes 3, 6 and 9 seconds without a loss, a third more with one of them, twice that with the other."""
    plain = [3.0, 6.0, 9.0]
    samples = {"": plain, FASTMMD: [4 / 3 * x for x in plain], NAIVE: [2 * x for x in plain]}

    def interleave(steps, device, rounds, seconds_each):
        assert set(steps) == set(samples)
        return {name: {"both": values} for name, values in samples.items()}

    monkeypatch.setattr(training.measure, "interleave", interleave)
    shares = {(s.precision, s.loss): s for s in training.shares(CPU, 3, 0.05, Tiny, CASE, (3, 8, 8))}
    for precision in training.PRECISIONS:
        assert shares[precision, FASTMMD].share == pytest.approx((0.25, 0.25, 0.25))
        assert shares[precision, NAIVE].share == pytest.approx((0.5, 0.5, 0.5))
        assert shares[precision, FASTMMD].seconds.p50 == pytest.approx(8)


def test_shares_are_saved_as_they_come(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    saved = []

    def shares(device, rounds, seconds):
        for precision, loss in ORDER:
            saved.append(len(Report.load(out).training) if out.exists() else 0)
            yield StepShare(precision, loss, "not installed")

    monkeypatch.setattr(training, "shares", shares)
    monkeypatch.setattr(training.environment, "describe", lambda device: {"gpu": "a GPU"})
    assert training.main(["--out", str(out), "--seconds", "9"]) == 0
    assert saved == [0, 1, 2, 3]
    assert len(Report.load(out).training) == 4


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
