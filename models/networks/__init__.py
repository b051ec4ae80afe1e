"""Networks: backbones (images to vectors), those that are built on one of them, and MldrNet."""

from fastmmd.models.networks.backbones import DigitCNN, EfficientNetLite0, ResNet50, Timm, Torchvision
from fastmmd.models.networks.compared import ACNN, TCNN, Classifier
from fastmmd.models.networks.mldrnet import ContrastiveLoss, MldrNet
from fastmmd.models.networks.network import Network
from fastmmd.models.networks.transfer import TransferNet

__all__ = [
    "ACNN",
    "TCNN",
    "Classifier",
    "ContrastiveLoss",
    "DigitCNN",
    "EfficientNetLite0",
    "MldrNet",
    "Network",
    "ResNet50",
    "Timm",
    "Torchvision",
    "TransferNet",
]
