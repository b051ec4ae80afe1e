"""Networks: backbones (images to vectors) and the transfer network that is built on one of them."""

from fastmmd.models.networks.backbones import DigitCNN, EfficientNetLite0, ResNet50, Timm, Torchvision
from fastmmd.models.networks.transfer import TransferNet

__all__ = ["DigitCNN", "EfficientNetLite0", "ResNet50", "Timm", "Torchvision", "TransferNet"]
