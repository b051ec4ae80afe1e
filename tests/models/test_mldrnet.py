"""MldrNet: sizes as documented, the algebra of its fusions, gradients, and that it learns."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fastmmd.models.networks.mldrnet import ContrastiveLoss, MldrNet

SMALL = {
    "channels": (8, 16, 16, 16, 16, 16),
    "stride": 2,
    "branch_channels": 8,
    "branch_map": 3,
    "width": 32,
    "gru_width": 12,
}
FUSIONS = [
    ("mean", "logits"),
    ("max", "logits"),
    ("min", "logits"),
    ("mean", "hidden"),
    ("max", "hidden"),
    ("min", "hidden"),
    ("concat", "hidden"),
    ("gru", "hidden"),
]
EXTREMA = [(fusion, fuse) for fusion, fuse in FUSIONS if fusion in ("max", "min")]
OTHERS = [pair for pair in FUSIONS if pair not in EXTREMA]


def small(fusion="mean", fuse=None, depth=3, dropout=0.0, **sizes):
    torch.manual_seed(0)
    return MldrNet(4, depth, fusion, fuse, dropout=dropout, **SMALL | sizes)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(1, 2_411_272), (2, 5_422_736), (3, 10_293_912), (4, 15_148_576), (5, 19_184_040), (6, 23_219_504)],
)
def test_parameters_of_each_depth(depth, parameters):
    with torch.device("meta"):
        for fusion in ("mean", "max", "min"):
            assert count(MldrNet(8, depth, fusion)) == parameters


@pytest.mark.parametrize(
    ("fusion", "parameters"),
    [("mean", 15_136_264), ("max", 15_136_264), ("min", 15_136_264), ("concat", 15_148_552), ("gru", 16_318_984)],
)
def test_parameters_with_fused_representations(fusion, parameters):
    with torch.device("meta"):
        assert count(MldrNet(8, 4, fusion, "hidden")) == parameters


def test_maps_of_the_papers_images():
    sides = []
    with torch.device("meta"):
        network = MldrNet(8, 6)
        for layer, branch in zip(network.chain, network.branches, strict=True):
            layer[0].register_forward_hook(lambda module, args, maps: sides.append(maps.shape[2:]))
            layer.register_forward_hook(lambda module, args, maps: sides.append(maps.shape[2:]))
            branch[2].register_forward_hook(lambda module, args, maps: sides.append(maps.shape[1:]))
        network(torch.empty(2, 3, 375, 375))
    inside = [94, 47, 47, 24, 24, 12, 12, 6, 6, 3, 3, 2]
    expected = [
        [(before, before), (after, after), (128, 6, 6)] for before, after in zip(*[iter(inside)] * 2, strict=True)
    ]
    assert sides == [shape for level in expected for shape in level]


@pytest.mark.parametrize(("fusion", "fuse"), FUSIONS)
@pytest.mark.parametrize(("depth", "height", "width"), [(1, 11, 11), (2, 32, 32), (4, 47, 30), (6, 64, 17)])
def test_shapes_of_levels_and_logits(fusion, fuse, depth, height, width):
    network = small(fusion, fuse, depth)
    layers, logits = network(torch.rand(2, 3, height, width))
    assert list(layers) == [f"level{k}" for k in range(1, depth + 1)]
    levels = list(layers.values())
    assert [level.shape for level in levels] == [(2, 32)] * depth
    assert min(level.min() for level in levels) >= 0
    assert logits.shape == (2, 4)
    combined = {"concat": 32 * depth, "gru": 24}.get(fusion, 32)
    assert network.combine(levels).shape == (2, combined)
    assert torch.equal(network.classify(levels), logits)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_branch_is_the_last_of_all(depth):
    whole, plain = small(depth=depth).eval(), small(depth=depth, levels="last").eval()
    state = whole.state_dict()
    last = {"branches": f"branches.{depth - 1}.", "heads": f"heads.{depth - 1}."}
    plain.load_state_dict(
        {
            name: state[name.replace(f"{part}.0.", last[part]) if (part := name.split(".")[0]) in last else name]
            for name in plain.state_dict()
        }
    )
    images = torch.randn(3, 3, 40, 40)
    levels, logits = plain(images)
    assert list(levels) == [f"level{depth}"]
    torch.testing.assert_close(levels[f"level{depth}"], whole(images)[0][f"level{depth}"])
    torch.testing.assert_close(logits, whole.heads[-1](levels[f"level{depth}"]))


def test_levels_are_of_growing_depth():
    """A level depends on the layers up to its own and on no later one."""
    network = small(depth=4)
    images = torch.rand(2, 3, 32, 32)
    before = network(images)[0].values()
    network.chain[2][0].weight.data.mul_(-1)
    after = network(images)[0].values()
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(("fusion", "fuse"), FUSIONS)
def test_logits_are_not_normalised(fusion, fuse):
    _, logits = small(fusion, fuse)(torch.rand(6, 3, 32, 32))
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(6))  # logits, not log-probabilities
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6))  # nor probabilities


@pytest.mark.parametrize(("fusion", "reduce"), [("mean", torch.mean), ("max", torch.amax), ("min", torch.amin)])
def test_fusion_of_class_logits(fusion, reduce):
    network = small(fusion)
    levels, logits = network(torch.rand(5, 3, 32, 32))
    branches = [head(level) for head, level in zip(network.heads, levels.values(), strict=True)]
    assert len(branches) == 3
    torch.testing.assert_close(logits, reduce(torch.stack(branches), dim=0))


@pytest.mark.parametrize(("fusion", "fuse"), FUSIONS[:6])
def test_equal_branches_are_their_own_mean_maximum_and_minimum(fusion, fuse):
    network = small(fusion, fuse)
    for head in network.heads:
        head.load_state_dict(network.heads[0].state_dict())
    level = torch.rand(5, 32)
    torch.testing.assert_close(network.classify([level] * 3), network.heads[0](level))
    torch.testing.assert_close(network.combine([level] * 3), level)


@pytest.mark.parametrize(("fusion", "fuse"), FUSIONS)
def test_order_of_branches(fusion, fuse):
    """It has no effect on mean, max and min, if each level keeps its own classifier, and has on concat and gru."""
    network = small(fusion, fuse)
    levels = list(torch.rand(3, 5, 32))
    before = network.classify(levels)
    if fuse == "logits":
        network.heads = torch.nn.ModuleList(reversed(network.heads))
    after = network.classify(levels[::-1])
    assert torch.allclose(before, after, rtol=0, atol=1e-6) == (fusion not in ("concat", "gru"))


def test_gru_reads_both_ways_from_low_to_high():
    network = small("gru")
    levels = list(torch.rand(3, 5, 32))
    steps, _ = network.gru(torch.stack(levels))
    torch.testing.assert_close(network.combine(levels), (steps[0] + steps[1] + steps[2]) / 3)
    # Forwards the first step has seen the lowest level only, backwards the highest.
    alone, _ = network.gru(levels[0][None])
    torch.testing.assert_close(steps[0, :, :12], alone[0, :, :12])
    alone, _ = network.gru(levels[2][None])
    torch.testing.assert_close(steps[2, :, 12:], alone[0, :, 12:])


@pytest.mark.parametrize(("fusion", "fuse"), OTHERS)
def test_gradients_reach_every_layer(fusion, fuse):
    network = small(fusion, fuse, depth=4)
    _, logits = network(torch.randn(16, 3, 32, 32))
    cross_entropy(logits, torch.arange(16) % 4).backward()
    assert [name for name, value in network.named_parameters() if not value.grad.any()] == []


@pytest.mark.parametrize(("fusion", "fuse"), EXTREMA)
@pytest.mark.parametrize("winner", range(4))
def test_gradients_reach_the_branch_that_wins(fusion, fuse, winner):
    """Maximum and minimum train the branches that they take values from, each here in turn, and no others."""
    network = small(fusion, fuse, depth=4)
    for level in range(4):
        last = network.heads[level][-1] if fuse == "logits" else network.branches[level][-2]
        last.bias.data += 10 if (level == winner) == (fusion == "max") else 5
    _, logits = network(torch.randn(16, 3, 32, 32))
    cross_entropy(logits, torch.arange(16) % 4).backward()
    for level in range(4):
        branch = [bool(value.grad.any()) for value in network.branches[level].parameters()]
        layer = [bool(value.grad.any()) for value in network.chain[level].parameters()]
        assert branch == [level == winner] * 4
        assert layer == [level <= winner] * 2


def test_extrema_share_the_gradient_of_equal_levels():
    network = small("max", "hidden")
    levels = torch.ones(3, 5, 32, requires_grad=True)
    network.combine(list(levels)).sum().backward()
    torch.testing.assert_close(levels.grad, torch.full((3, 5, 32), 1 / 3))


def test_dropout_in_training_only():
    network = small(dropout=0.5)
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(network(images)[1], network(images)[1])
    network.eval()
    assert torch.equal(network(images)[1], network(images)[1])


@pytest.mark.parametrize(("fusion", "fuse"), FUSIONS)
def test_overfits_sixteen_images(fusion, fuse):
    network = small(fusion, fuse)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(90):
        loss = cross_entropy(network(images)[1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert (network(images)[1].argmax(dim=1) == labels).all()


def test_overfits_with_both_losses_of_zhu():
    network, contrastive = small("gru"), ContrastiveLoss()
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(90):
        levels, logits = network(images)
        apart = contrastive(network.combine(list(levels.values())), labels)
        optimizer.zero_grad()
        (cross_entropy(logits, labels) + apart).backward()
        optimizer.step()
    assert cross_entropy(logits, labels) < 0.1
    assert apart < 0.01


@pytest.mark.parametrize("depth", [0, 7])
def test_impossible_depth(depth):
    with pytest.raises(ValueError, match=f"depth: expected 1 to 6, the number of channels, got {depth}"):
        MldrNet(8, depth)
    with pytest.raises(ValueError, match=r"depth: expected 1 to 2, .* got 3"):
        MldrNet(8, 3, channels=(8, 16))


def test_impossible_fusion():
    with pytest.raises(ValueError, match="fusion: expected one of mean, max, min, concat, gru, got 'median'"):
        MldrNet(8, fusion="median")
    with pytest.raises(ValueError, match="fuse: expected logits or hidden for fusion 'mean', got 'features'"):
        MldrNet(8, fuse="features")
    for fusion in ("concat", "gru"):
        with pytest.raises(ValueError, match=f"fuse: expected hidden for fusion '{fusion}', got 'logits'"):
            MldrNet(8, fusion=fusion, fuse="logits")
    with pytest.raises(ValueError, match="levels: expected 'all' or 'last', got 'first'"):
        MldrNet(8, levels="first")


@pytest.mark.parametrize("shape", [(2, 3, 10, 32), (2, 3, 32, 10), (2, 1, 32, 32), (3, 32, 32)])
def test_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"images: expected \[n, 3, h, w\] with h and w from 11, got \[") as error:
        small()(torch.rand(shape))
    assert str(error.value).endswith(f"got {list(shape)}")


def test_contrastive_loss_of_three_vectors():
    vectors = torch.tensor([[0.0, 0.0], [0.0, 0.6], [0.0, 3.0]])
    # Distances 0.6 and 2.4 of other classes, 3 of the same.
    expected = ((1 - 0.6) ** 2 + 3**2 + 0) / 3
    labels = torch.tensor([4, 7, 4])
    torch.testing.assert_close(ContrastiveLoss(weight=1)(vectors, labels), torch.tensor(expected))
    torch.testing.assert_close(ContrastiveLoss()(vectors, labels), torch.tensor(expected / 2))
    expected = ((2.5 - 0.6) ** 2 + 3**2 + (2.5 - 2.4) ** 2) / 3
    torch.testing.assert_close(ContrastiveLoss(1, margin=2.5)(vectors, labels), torch.tensor(expected))


def test_contrastive_loss_of_all_pairs():
    torch.manual_seed(0)
    vectors, labels = torch.rand(9, 5, dtype=torch.float64, requires_grad=True), torch.arange(9) % 3
    terms = []
    for i in range(9):
        for j in range(i):
            distance = (vectors[i] - vectors[j]).norm()
            terms.append(distance**2 if labels[i] == labels[j] else (1 - distance).relu() ** 2)
    expected = 0.5 * torch.stack(terms).mean()
    loss = ContrastiveLoss()(vectors, labels)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, vectors)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    order = torch.randperm(9)
    torch.testing.assert_close(ContrastiveLoss()(vectors[order], labels[order]), expected)


def test_contrastive_loss_vanishes_for_classes_apart():
    vectors = 2 * torch.eye(3).repeat(4, 1)
    assert ContrastiveLoss()(vectors, torch.arange(12) % 3) == 0


@pytest.mark.parametrize("count", [0, 1, 4])
def test_contrastive_loss_of_few_and_of_equal_vectors(count):
    vectors = torch.ones(count, 5, requires_grad=True)
    loss = ContrastiveLoss()(vectors, torch.arange(count) % 2)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert vectors.grad.isfinite().all()


def test_contrastive_loss_of_half_precision_is_in_fp32():
    vectors, labels = torch.rand(8, 5).bfloat16(), torch.arange(8) % 2
    torch.testing.assert_close(ContrastiveLoss()(vectors, labels), ContrastiveLoss()(vectors.float(), labels))


def test_contrastive_loss_of_other_shapes():
    for vectors, labels in (((4, 5), (3,)), ((4,), (4,)), ((4, 5), (4, 1))):
        with pytest.raises(ValueError, match=r"expected vectors \[n, d\] and labels \[n\], got \[4"):
            ContrastiveLoss()(torch.rand(vectors), torch.zeros(labels))
