"""The network's own evaluation transform, against that of the package its weights come from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import ResNet50_Weights

from fastmmd.models.data import EvalTransform, TrainTransform
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.networks import Timm, Torchvision

# The difference of scaling by 1 / 255 or dividing by 255: far below one of 256 levels.
CLOSE = {"rtol": 0, "atol": 1e-6}


def picture(height, width):
    pixels = np.random.default_rng(height * width).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def matched(transform, expected):
    transform.match(expected)
    return transform


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@given(height=st.integers(1, 400), width=st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_network_mode_is_timms_transform(mode, height, width):
    timm = pytest.importorskip("timm")
    if mode == "border":  # timm makes no side of a thin strip, for which there is no picture
        height, width = max(height, width // 100 + 1), max(width, height // 100 + 1)
    config = {"input_size": (3, 96, 96), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": mode}
    config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    expected = Preprocessing(config["mean"], config["std"], "bicubic", 106, 96, mode)
    transformed = matched(EvalTransform(crop_mode="network"), expected)(picture(height, width))
    timms = timm.data.create_transform(**config, is_training=False)(picture(height, width))
    torch.testing.assert_close(transformed, timms, **CLOSE)


@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "test_convnext2", "convnext_atto", "coatnet_nano_rw_224"])
@pytest.mark.parametrize("size", [(301, 233), (33, 257), (1, 2)])
def test_timm_networks_bring_their_transform(name, size):
    timm = pytest.importorskip("timm")
    backbone = Timm(name)
    config = timm.data.resolve_model_data_config(backbone.model)
    timms = timm.data.create_transform(**config, is_training=False)(picture(*size))
    transformed = matched(EvalTransform(crop_mode="network"), backbone.preprocessing)(picture(*size))
    torch.testing.assert_close(transformed, timms, **CLOSE)


def test_torchvision_networks_bring_their_transform():
    transformed = matched(EvalTransform(crop_mode="network"), Torchvision("resnet50").preprocessing)(picture(301, 433))
    torch.testing.assert_close(transformed, ResNet50_Weights.IMAGENET1K_V1.transforms()(picture(301, 433)), **CLOSE)


def test_both_sides_are_resized_unless_asked_otherwise():
    """JAN's protocol, whatever the network's own: a dark strip at the upper edge of a wide picture stays."""
    image = Image.new("RGB", (200, 100), "white")
    image.paste("black", (0, 0, 40, 100))
    expected = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=50, crop=50)
    assert (matched(EvalTransform(), expected)(image)[:, :, :9] < 0.1).all()
    assert (matched(EvalTransform(crop_mode="network"), expected)(image) > 0.9).all()


def test_border_pads_with_the_mean_colour():
    expected = Preprocessing((0.2, 0.4, 0.6), (1.0,) * 3, resize=40, crop=40, crop_mode="border")
    result = matched(EvalTransform(crop_mode="network"), expected)(Image.new("RGB", (80, 20), "white"))
    assert (result[:, :15].abs() < 1e-6).all()
    assert (result[:, -15:].abs() < 1e-6).all()
    torch.testing.assert_close(result[:, 15:25, 20], torch.tensor([0.8, 0.6, 0.4])[:, None].expand(3, 10))


@pytest.mark.parametrize("mode", ["squash", "center", "border", "network"])
def test_training_crops_have_the_networks_size(mode):
    transform = matched(TrainTransform(crop_mode=mode), Preprocessing(resize=40, crop=32))
    assert transform(picture(31, 257)).shape == (3, 32, 32)


@pytest.mark.parametrize("kind", [EvalTransform, TrainTransform])
def test_unknown_mode_is_refused(kind):
    with pytest.raises(ValueError, match="crop_mode: expected squash, center, border or network, got 'centre'"):
        kind(crop_mode="centre")
