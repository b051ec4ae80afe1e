"""Networks: backbones (images to vectors) and the transfer network that is built on one of them."""

from fastmmd.models.networks.backbones import DigitCNN, ResNet50
from fastmmd.models.networks.transfer import TransferNet

__all__ = ["DigitCNN", "ResNet50", "TransferNet"]
