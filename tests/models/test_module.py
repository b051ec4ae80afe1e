"""The objective against closed forms, its switches, and the optimiser."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, softmax

import fastmmd
from fastmmd.functional import JAN_KERNELS
from fastmmd.models.module import TransferTask
from fastmmd.models.networks import ACNN, Classifier, ContrastiveLoss, MldrNet, TransferNet
from fastmmd.models.schedules import inverse_decay, ramp
from fastmmd.models.settings import refuse_other_settings

from .conftest import CLASSES, Trunk


class Table(nn.Module):
    """A network that returns its input's first columns as features and the others as logits."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return {"features": images[:, :4]}, images[:, 4:]


def make_batch(source=5, target=3):
    generator = torch.Generator().manual_seed(0)
    return {
        domain: (
            torch.randn(n, 7, generator=generator, requires_grad=True),
            torch.arange(n) % 3,
        )
        for domain, n in (("source", source), ("target", target))
    }


def closed_form_mmd(batch, joint):
    """The biased estimate, written out pair by pair: of the features, or of features and softmax together."""
    points = [
        (row[:4], row[4:].softmax(0), weight)
        for domain, sign in (("source", 1), ("target", -1))
        for row, weight in ((row, sign / len(batch[domain][0])) for row in batch[domain][0].detach().double())
    ]
    n = len(points)
    mean = sum(float((x - y).square().sum()) for x, *_ in points for y, *_ in points) / (n * n - n)
    total = 0.0
    for x, p, a in points:
        for y, q, b in points:
            value = sum(math.exp(-float((x - y).square().sum()) / (m * mean)) for m in (0.25, 0.5, 1, 2, 4))
            total += a * b * value * (math.exp(-float((p - q).square().sum()) / 1.68) if joint else 1)
    return total


@pytest.mark.parametrize("source_labels", ["used", "ignored"])
@pytest.mark.parametrize("target_labels", ["used", "ignored"])
@pytest.mark.parametrize(("lam", "eta"), [(0.2, 0.3), (1.0, 0.0), (0.0, 1.0), (None, None)])
def test_objective_is_the_sum_of_the_terms_that_are_on(source_labels, target_labels, lam, eta):
    transfer = None if lam is None else fastmmd.TransferLoss(lam, (eta, 0.0))
    labels = {"source_labels": source_labels, "target_labels": target_labels}
    if set(labels.values()) == {"ignored"}:
        with pytest.raises(ValueError, match="nothing would be learned"):
            TransferTask(Table(), CLASSES, transfer, **labels)
        return
    task, batch = TransferTask(Table(), CLASSES, transfer, **labels), make_batch()
    loss, terms = task.objective(batch, weight=0.5)
    expected = 0.0
    for domain in ("source", "target"):
        images, classes = batch[domain]
        if labels[f"{domain}_labels"] == "used":
            log_p = images[:, 4:].detach().double().log_softmax(1)
            value = -float(sum(row[label] for row, label in zip(log_p, classes, strict=True))) / len(classes)
            assert float(terms[f"{domain}_loss"]) == pytest.approx(value, rel=1e-5)
            expected += value
        else:
            assert f"{domain}_loss" not in terms
    if transfer is not None:
        jmmd, mmd = closed_form_mmd(batch, joint=True), closed_form_mmd(batch, joint=False)
        assert float(terms["jmmd"]) == pytest.approx(jmmd, rel=1e-4)
        assert float(terms["mmd_features"]) == pytest.approx(mmd, rel=1e-4)
        assert float(terms["transfer_loss"]) == pytest.approx(0.5 * (lam * jmmd + eta * mmd), rel=1e-4)
        expected += 0.5 * (lam * jmmd + eta * mmd)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert task.network.calls == 1  # one forward, whatever is on


def test_unequal_batches_are_told_apart():
    batch = make_batch(source=2, target=6)
    task = TransferTask(Table(), CLASSES, fastmmd.TransferLoss(), target_labels="used")
    loss, _ = task.objective(batch)
    (xs, ys), (xt, yt) = batch["source"], batch["target"]
    transfer = fastmmd.TransferLoss()((xs[:, :4], softmax(xs[:, 4:], dim=1)), (xt[:, :4], softmax(xt[:, 4:], dim=1)))
    expected = cross_entropy(xs[:, 4:], ys) + cross_entropy(xt[:, 4:], yt) + transfer
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, [xs, xt]), torch.autograd.grad(expected, [xs, xt])
    torch.testing.assert_close(*gradients)


def test_domain_that_no_term_needs_is_not_seen():
    batch = make_batch()
    for labels, unused in (({}, "target"), ({"source_labels": "ignored", "target_labels": "used"}, "source")):
        task = TransferTask(Table(), CLASSES, **labels)
        task.objective({**batch, unused: None})


def test_both_domains_can_be_seen_without_a_transfer_term():
    """What is seen shapes batch norm's running statistics; the loss is the source's alone."""
    means = {}
    for see in ("needed", "both"):
        torch.manual_seed(0)
        network = TransferNet(Trunk(), 3, width=6, batch_norm=True)
        batch = {"source": (torch.zeros(9, 4), torch.arange(9) % 3), "target": (torch.ones(6, 4), None)}
        _, terms = TransferTask(network, CLASSES, see=see).objective(batch)
        assert set(terms) == {"loss", "source_loss"}
        inputs = network.bottleneck[0](network.backbone(torch.cat([batch["source"][0], batch["target"][0]])))
        seen = inputs if see == "both" else inputs[:9]
        means[see] = network.bottleneck[1].running_mean
        torch.testing.assert_close(means[see], 0.1 * seen.mean(dim=0))
    assert not torch.allclose(means["needed"], means["both"])


def test_pull_of_the_transfer_term_goes_through_the_softmax_layer():
    torch.manual_seed(0)
    network = TransferNet(Trunk(), 3, width=6, dropout=0.0)
    batch = {d: (torch.randn(n, 4), torch.arange(n) % 3) for d, n in (("source", 9), ("target", 6))}
    _, terms = TransferTask(network, CLASSES, fastmmd.TransferLoss(0.0, (0.0, 1.0))).objective(batch, trace=True)
    features = [network(images)[0]["features"].detach().requires_grad_() for images, _ in batch.values()]
    mmd = fastmmd.TransferLoss(0.0, (0.0, 1.0))(*((x, softmax(network.head(x), dim=1)) for x in features))
    expected = torch.cat(torch.autograd.grad(mmd, features)).norm()
    assert expected > 0
    torch.testing.assert_close(terms["transfer_gradient"], expected)


def test_pull_of_the_transfer_term():
    batch = make_batch()
    task = TransferTask(Table(), CLASSES, fastmmd.TransferLoss(0.0, (1.0, 0.0)))
    _, terms = task.objective(batch, trace=True)
    images = [batch[domain][0] for domain in ("source", "target")]
    mmd = fastmmd.mmd(images[0][:, :4], images[1][:, :4])
    expected = torch.cat(torch.autograd.grad(mmd, images)).norm()
    torch.testing.assert_close(terms["transfer_gradient"], expected)
    assert not any(value.requires_grad for value in terms.values())


def dsan(network, **settings):
    return TransferTask(network, CLASSES, fastmmd.LMMDLoss(), layers=("features",), **settings)


def local_mmd_by_hand(source, target, labels, probabilities):
    """The mean over the classes of both domains, of dense squared MMDs with weights that add up to 1 in each domain."""
    rows = torch.cat([source, target]).double()
    squares = (rows[:, None] - rows).square().sum(2)
    bandwidth = squares.detach().sum() / (len(rows) * (len(rows) - 1))
    gram = sum(torch.exp(-squares / (factor * bandwidth)) for factor in (0.25, 0.5, 1, 2, 4))
    values = []
    for name in set(labels.tolist()) & set(probabilities.argmax(1).tolist()):
        a, b = (labels == name).double(), probabilities[:, name].detach().double()
        weights = torch.cat([a / a.sum(), -b / b.sum()])
        values.append(weights @ gram @ weights)
    return torch.stack(values).mean().float()


@pytest.mark.parametrize("sizes", [(9, 6), (2, 6)])  # the second without a row of the source's third class
@pytest.mark.parametrize("target_labels", ["used", "ignored"])
def test_term_of_dsan_compares_class_by_class(sizes, target_labels):
    """With the target's labels where they are used, else with predictions that count as constants."""
    batch = make_batch(*sizes)
    (xs, ys), (xt, yt) = batch.values()
    predicted = softmax(xt[:, 4:], dim=1)
    probabilities = one_hot(yt, 3).float() if target_labels == "used" else predicted
    expected = local_mmd_by_hand(xs[:, :4], xt[:, :4], ys, probabilities)
    assert expected > 0
    torch.testing.assert_close(fastmmd.lmmd(xs[:, :4], xt[:, :4], ys, probabilities), expected)

    loss, terms = dsan(Table(), target_labels=target_labels).objective(batch, weight=0.5, trace=True)
    torch.testing.assert_close(terms["transfer_loss"], 0.5 * expected.detach())
    torch.testing.assert_close(terms["local_jmmd"], expected.detach())
    torch.testing.assert_close(terms["local_mmd_features"], expected.detach())
    assert not {"jmmd", "mmd_features"} & set(terms)
    assert {"bandwidth_features", "transfer_gradient"} <= set(terms)
    labelled = cross_entropy(xs[:, 4:], ys) + (cross_entropy(xt[:, 4:], yt) if target_labels == "used" else 0)
    gradients = [torch.autograd.grad(value, [xs, xt]) for value in (loss, labelled + 0.5 * expected)]
    torch.testing.assert_close(*gradients)
    if target_labels == "ignored":
        assert not gradients[0][1][:, 4:].any()  # nothing through the predictions


def test_term_of_dsan_without_a_class_in_both_domains_is_0():
    batch = make_batch()
    (xs, _), (xt, _) = batch.values()
    batch["source"] = xs, torch.zeros(len(xs), dtype=torch.int64)
    batch["target"] = xt + torch.tensor([0.0] * 4 + [-99.0, 99.0, 0.0]), None
    loss, terms = dsan(Table()).objective(batch, trace=True)
    torch.testing.assert_close(loss, cross_entropy(xs[:, 4:], batch["source"][1]))
    assert terms["transfer_loss"] == terms["transfer_gradient"] == 0
    gradients = torch.autograd.grad(loss, [xs, xt])
    assert gradients[0].isfinite().all()
    assert not gradients[1].any()


def test_dsan_needs_source_labels():
    with pytest.raises(ValueError, match="source_labels: expected 'used' with an LMMDLoss"):
        dsan(Table(), source_labels="ignored", target_labels="used")


LEVELS = ("level1", "level2", "level3", "level4", "softmax")
KERNELS = (fastmmd.Gaussian(weights=(0.2,) * 5),) * 4 + JAN_KERNELS[1:]


@pytest.fixture
def mldrnet():
    torch.manual_seed(0)
    return MldrNet(3, channels=(4, 6, 6, 6), branch_channels=4, branch_map=2, width=12, dropout=0.0)


def image_batch(source=7, target=5):
    generator = torch.Generator().manual_seed(0)
    sizes = {"source": source, "target": target}
    return {d: (torch.randn(n, 3, 64, 64, generator=generator), torch.arange(n) % 3) for d, n in sizes.items()}


def levels_by_hand(network, batch):
    """The five layers of each domain, by a forward pass of its own."""
    outputs = [network(images) for images, _ in batch.values()]
    return [[*layers.values(), softmax(logits, dim=1)] for layers, logits in outputs]


def test_joint_term_over_four_levels_and_softmax(mldrnet):
    batch = image_batch()
    transfer = fastmmd.TransferLoss(1.0, 0.0, KERNELS)
    loss, terms = TransferTask(mldrnet, CLASSES, transfer, layers=LEVELS).objective(batch)
    layers = levels_by_hand(mldrnet, batch)
    expected = fastmmd.jmmd(*layers, KERNELS)
    assert expected > 0
    torch.testing.assert_close(terms["transfer_loss"], expected.detach())
    (images, labels), _ = batch.values()
    torch.testing.assert_close(loss, cross_entropy(mldrnet(images)[1], labels) + expected)
    assert {f"mmd_{name}" for name in LEVELS} <= set(terms)


def test_marginal_term_of_each_level(mldrnet):
    batch, weights = image_batch(), (0.5, 0.25, 2.0, 1.0)
    transfer = fastmmd.TransferLoss(0.0, weights, KERNELS[:4])
    _, terms = TransferTask(mldrnet, CLASSES, transfer, layers=LEVELS[:4]).objective(batch)
    source, target = levels_by_hand(mldrnet, batch)
    values = [fastmmd.mmd(*pair, KERNELS[0]) for pair in zip(source[:4], target[:4], strict=True)]
    for name, value in zip(LEVELS, values, strict=False):
        torch.testing.assert_close(terms[f"mmd_{name}"], value.detach())
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    torch.testing.assert_close(terms["transfer_loss"], expected.detach())


@pytest.mark.parametrize("layers", [LEVELS, ("softmax",), ("level2",)])
def test_pull_on_all_levels_together(mldrnet, layers):
    """With respect to all levels, through the softmax too; a level without a part in the term counts as 0."""
    batch = image_batch()
    chosen = [LEVELS.index(name) for name in layers]
    transfer = fastmmd.TransferLoss(1.0, 0.0, [KERNELS[k] for k in chosen])
    _, terms = TransferTask(mldrnet, CLASSES, transfer, layers=layers).objective(batch, trace=True)
    levels = [
        [layer.detach().requires_grad_() for layer in mldrnet(images)[0].values()] for images, _ in batch.values()
    ]
    seen = [[*layer, softmax(mldrnet.classify(layer), dim=1)] for layer in levels]
    value = transfer(*([layer[k] for k in chosen] for layer in seen))
    pulls = torch.autograd.grad(value, [*levels[0], *levels[1]], allow_unused=True)
    expected = torch.cat([pull.flatten() for pull in pulls if pull is not None]).norm()
    assert expected > 0
    torch.testing.assert_close(terms["transfer_gradient"], expected)


def test_layer_that_the_network_lacks(mldrnet):
    task = TransferTask(mldrnet, CLASSES, fastmmd.TransferLoss(), layers=("features", "softmax"))
    expected = "layers: the network has no features; there are level1, level2, level3, level4, logits, softmax"
    with pytest.raises(ValueError, match=expected):
        task.objective(image_batch())


@pytest.mark.parametrize("kind", ["transfer", "classifier", "mldrnet"])
def test_a_step_of_each_network(mldrnet, kind):
    torch.manual_seed(0)
    backbone = ACNN(8, 4, (24, 16), dropout=0.0)
    network = {"transfer": TransferNet(backbone, 3, dropout=0.0), "classifier": Classifier(backbone, 3)}.get(
        kind, mldrnet
    )
    layers, kernels = (LEVELS, KERNELS) if kind == "mldrnet" else (("features", "softmax"), JAN_KERNELS)
    task = TransferTask(network, CLASSES, fastmmd.TransferLoss(1.0, 0.0, kernels), layers=layers, learning_rate=1e-4)
    optimizer = task.configure_optimizers()["optimizer"]
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    new = {"new layers": pytest.approx(1e-4)}
    assert rates == (new if kind == "mldrnet" else {"backbone": pytest.approx(1e-5)} | new)
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    assert list(map(id, parameters)) == list(map(id, network.parameters()))
    before, batch = [value.detach().clone() for value in parameters], image_batch()
    loss, _ = task.objective(batch)
    loss.backward()
    optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(parameters, before, strict=True))
    assert task.objective(batch)[0] < loss
    assert list(task.predict_step(batch["target"])["probabilities"].shape) == [5, 3]


def test_names_of_parameters_are_those_of_older_checkpoints(network):
    parts = ("backbone.0", "bottleneck.0", "head")
    assert list(network.state_dict()) == [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]


def test_constant_rate_and_plain_momentum(mldrnet):
    task = TransferTask(mldrnet, CLASSES, learning_rate=1e-3, decay_power=0.0, nesterov=False)
    made = task.configure_optimizers()
    (group,) = made["optimizer"].param_groups
    for _ in range(3):
        assert (group["lr"], group["nesterov"], group["momentum"]) == (1e-3, False, 0.9)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()


def test_rates_of_the_layers_and_schedule(network):
    task = TransferTask(network, CLASSES, learning_rate=3e-3)
    made = task.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    backbone, new = optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert len(backbone["params"]) + len(new["params"]) == len(list(network.parameters()))
    for step in range(3):
        assert new["lr"] == pytest.approx(3e-3 * (1 + 3e-4 * step) ** -0.75, rel=1e-12)
        assert new["lr"] == pytest.approx(10 * backbone["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)


def test_schedules_by_hand():
    assert inverse_decay(0) == 1
    assert inverse_decay(10_000) == pytest.approx(4**-0.75)
    assert ramp(0, 100) == 0
    assert ramp(50, 100) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert ramp(100, 100) == ramp(10**6, 100) == pytest.approx(math.tanh(5))
    assert ramp(0, 0) == ramp(7, 0) == 1


def test_label_smoothing_and_other_layers():
    batch = make_batch()
    transfer = fastmmd.TransferLoss(0.5, (0.0, 2.0, 0.0), (fastmmd.Gaussian(),) * 3)
    settings = {"target_labels": "used", "label_smoothing": 0.1, "layers": ("features", "logits", "softmax")}
    task = TransferTask(Table(), CLASSES, transfer, **settings)
    loss, terms = task.objective(batch)
    (xs, ys), (xt, yt) = batch["source"], batch["target"]
    layers = [(x[:, :4], x[:, 4:], softmax(x[:, 4:], dim=1)) for x in (xs, xt)]
    expected = transfer(*layers) + sum(cross_entropy(x[:, 4:], y, label_smoothing=0.1) for x, y in ((xs, ys), (xt, yt)))
    torch.testing.assert_close(loss, expected)
    assert {"mmd_features", "mmd_logits", "mmd_softmax", "bandwidth_logits"} <= set(terms)


def test_loss_is_fp32_under_mixed_precision():
    """The outputs are bf16; the loss is that of these outputs in fp32, not in bf16."""
    torch.manual_seed(0)
    network = TransferNet(Trunk(), 3, width=6, dropout=0.0)
    batch = {d: (torch.randn(n, 4), torch.arange(n) % 3) for d, n in (("source", 9), ("target", 6))}
    task = TransferTask(network, CLASSES, fastmmd.TransferLoss(), target_labels="used")
    with torch.autocast("cpu", torch.bfloat16):
        layers, logits = network(torch.cat([batch["source"][0], batch["target"][0]]))
        loss, terms = task.objective(batch, trace=True)
    assert layers["features"].dtype == logits.dtype == torch.bfloat16
    features, logits = (output.detach().float() for output in (layers["features"], logits))
    expected = fastmmd.TransferLoss()(
        (features[:9], softmax(logits[:9], dim=1)), (features[9:], softmax(logits[9:], dim=1))
    )
    assert loss.dtype == terms["transfer_loss"].dtype == torch.float32
    assert float(terms["transfer_loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert terms["transfer_gradient"] > 0


def test_contrastive_term_is_that_of_the_combined_layers():
    """Only labelled domains have the term, each by itself, behind the network's own fusion."""
    torch.manual_seed(0)
    sizes = {"channels": (4, 6), "branch_channels": 4, "branch_map": 2, "width": 6, "gru_width": 3, "dropout": 0.0}
    network = MldrNet(3, 2, "gru", **sizes)
    batch = {d: (torch.randn(n, 3, 24, 24), torch.arange(n) % 3) for d, n in (("source", 5), ("target", 4))}
    term = ContrastiveLoss()
    for labelled in (["source"], ["source", "target"]):
        labels = "used" if len(labelled) == 2 else "ignored"
        plain = TransferTask(network, CLASSES, target_labels=labels, see="both")
        task = TransferTask(network, CLASSES, target_labels=labels, see="both", contrastive=term)
        loss, terms = task.objective(batch)
        expected = [term(network.combine(list(network(batch[d][0])[0].values())), batch[d][1]) for d in labelled]
        values = [terms[f"{d}_contrastive"] for d in labelled]
        torch.testing.assert_close(values, [value.detach() for value in expected])
        torch.testing.assert_close(loss, plain.objective(batch)[0] + sum(expected))
        assert [name for name in terms if "contrastive" in name] == [f"{d}_contrastive" for d in labelled]
    network.zero_grad()
    loss.backward()
    assert all(value.grad.any() for value in network.gru.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_contrastive_term_in_low_precision(dtype):
    """With weights in bfloat16, and with weights in fp32 under autocast."""
    torch.manual_seed(0)
    sizes = {"channels": (4, 6), "branch_channels": 4, "branch_map": 2, "width": 6, "gru_width": 3}
    task = TransferTask(MldrNet(3, 2, "gru", **sizes).to(dtype), CLASSES, contrastive=ContrastiveLoss())
    batch = {"source": (torch.randn(5, 3, 24, 24, dtype=dtype), torch.arange(5) % 3)}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        loss, terms = task.objective(batch)
    assert loss.dtype == terms["source_contrastive"].dtype == torch.float32
    loss.backward()
    assert all(value.grad.isfinite().all() for value in task.parameters())


def test_settings_that_are_newer_than_a_checkpoint():
    """Those of a class within the settings had its default; another value is refused."""
    task = TransferTask(MldrNet(3, 2), CLASSES)
    network = {"class_path": "fastmmd.models.networks.MldrNet", "init_args": {"num_classes": 3, "depth": 2}}
    now = {**network, "init_args": {**network["init_args"], "levels": "all", "channels": [96, 256, 384, 256, 256, 256]}}
    stored = {**task.hparams, "network": network}
    task.hparams["network"] = now
    refuse_other_settings({"hyper_parameters": stored}, task, None)
    now["init_args"]["levels"] = "last"
    with pytest.raises(ValueError, match=r"levels \('all', now 'last'\)"):
        refuse_other_settings({"hyper_parameters": stored}, task, None)
