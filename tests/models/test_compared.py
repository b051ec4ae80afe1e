"""The networks that MldrNet is compared with: sizes as documented, T-CNN's energy layer, and that they learn."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastmmd.models.networks import ResNet50, Torchvision, TransferNet
from fastmmd.models.networks.compared import ACNN, TCNN, Classifier

SMALL = {
    "acnn": lambda dropout=0.0: ACNN(8, 4, (24, 16), dropout),
    "tcnn": lambda dropout=0.0: TCNN((8, 16), (24, 16), dropout),
}
LEAST = {"acnn": 39, "tcnn": 19}


def small(name, dropout=0.0):
    torch.manual_seed(0)
    return Classifier(SMALL[name](dropout), 4)


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (ACNN, 9_674_928),
        (lambda: ACNN(map_side=24), 37_322_928),
        (TCNN, 18_516_360),
        (lambda: Torchvision("alexnet"), 57_036_616),
        (lambda: Torchvision("vgg19"), 139_603_016),
        (lambda: Torchvision("resnet101"), 42_516_552),
    ],
    ids=["acnn", "acnn-whole-map", "tcnn", "alexnet", "vgg19", "resnet101"],
)
def test_parameters(build, parameters):
    with torch.device("meta"):
        network = Classifier(build(), 8)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_parameters_of_the_transfer_network():
    with torch.device("meta"):
        network = TransferNet(ResNet50(), 8)
    assert sum(parameter.numel() for parameter in network.parameters()) == 24_034_632


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (ACNN, [(64, 107), (64, 53), (64, 49), (64, 24), (64, 24), (64, 24), (64, 12)]),
        (TCNN, [(96, 55), (96, 27), (256, 27), (256, 1)]),
    ],
    ids=["acnn", "tcnn"],
)
def test_sizes_of_maps(build, expected):
    shapes = []
    with torch.device("meta"):
        backbone = build()
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d):
                module.register_forward_hook(lambda module, args, maps: shapes.append(maps.shape))
        crop = backbone.preprocessing.crop
        backbone(torch.empty(2, 3, crop, crop))
    assert shapes == [(2, channels, side, side) for channels, side in expected]


def test_alexnet_is_that_of_2014():
    with torch.device("meta"):
        layers = Torchvision("alexnet").model.features
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == [64, 192, 384, 256, 256]


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_features_and_logits(name):
    network = small(name)
    least = LEAST[name]
    for height, width in ((least, least), (64, 48), (97, 130)):
        layers, logits = network(torch.rand(2, 3, height, width))
        (features,) = layers.values()
        assert (features.shape, logits.shape) == ((2, 16), (2, 4))
        assert features.min() >= 0
        assert torch.equal(logits, network.head(features))
    for shape in ((2, 3, least - 1, 64), (2, 3, 64, least - 1), (2, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(
            ValueError, match=rf"images: expected \[n, 3, h, w\] with h and w from {least}, got \["
        ) as e:
            network(torch.rand(shape))
        assert str(e.value).endswith(f"got {list(shape)}")


@pytest.mark.parametrize("name", SMALL)
def test_no_image_has_an_effect_on_another(name):
    network = small(name, dropout=0.5).eval()
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(network(images)[1][:1], network(images[:1])[1])


def test_classifier_of_a_torchvision_network():
    torch.manual_seed(0)
    network = Classifier(Torchvision("resnet18"), 8).eval()
    layers, logits = network(torch.rand(2, 3, 32, 32))
    features = layers["features"]
    assert (features.shape, logits.shape) == ((2, 512), (2, 8))
    assert torch.equal(logits, network.head(features))


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_not_normalised(name):
    _, logits = small(name)(torch.rand(6, 3, 64, 64))
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(6))  # logits, not log-probabilities
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6))  # nor probabilities
    assert logits.min() < 0


def test_energy_layer_is_average_pooling_of_27():
    torch.manual_seed(0)
    network = TCNN((8, 16), (24, 16)).eval()
    stated = nn.AvgPool2d(27)
    with torch.no_grad():
        maps = network.features(torch.rand(2, 3, 227, 227))
        torch.testing.assert_close(network.energy(maps), stated(maps))
        # On larger images the stated layer sees only a corner of the map.
        maps = network.features(torch.rand(2, 3, 375, 375))
        assert maps.shape[2:] == (45, 45)
        torch.testing.assert_close(network.energy(maps)[..., 0, 0], maps.mean(dim=(2, 3)))
        torch.testing.assert_close(stated(maps)[..., 0, 0], maps[..., :27, :27].mean(dim=(2, 3)))


def test_texture_has_no_place():
    """T-CNN sees which textures there are, not where: mirrored filters on mirrored images give the same features."""
    torch.manual_seed(0)
    network = TCNN((8, 16), (24, 16)).eval()
    images = torch.rand(2, 3, 67, 67)  # strides and windows then fit from both sides
    expected = network(images)
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.flip(3)
    torch.testing.assert_close(network(images.flip(3)), expected)


@pytest.mark.parametrize("name", SMALL)
def test_overfits_sixteen_images(name):
    network = small(name)
    images, labels = torch.randn(16, 3, 64, 64), torch.arange(16) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(100):
        loss = cross_entropy(network(images)[1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in network.parameters())
    assert loss < 0.1
    assert (network(images)[1].argmax(dim=1) == labels).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "vgg19", "resnet101"])
def test_torchvisions_networks_overfit_sixteen_images(name):
    torch.manual_seed(0)
    network = Classifier(Torchvision(name), 4)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    images, labels = torch.randn(16, 3, 64, 64), torch.arange(16) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    for _ in range(40):
        logits = network(images)[1]
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        optimizer.step()
        if (logits.argmax(dim=1) == labels).all():
            break
    assert (logits.argmax(dim=1) == labels).all()
