"""Data: labelled domains, their splits, and endless, reproducible batches of two of them."""

from fastmmd.models.data.digits import FontDigits, Mnist5k, OptDigits
from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.domains import DomainPair
from fastmmd.models.data.emoji import Emoji
from fastmmd.models.data.features import CachedFeatures
from fastmmd.models.data.images import EvalTransform, FiveCropEval, FiveCropTrain, TrainTransform

__all__ = [
    "CachedFeatures",
    "DomainPair",
    "Emoji",
    "EvalTransform",
    "FiveCropEval",
    "FiveCropTrain",
    "FontDigits",
    "ImageDomain",
    "Mnist5k",
    "OptDigits",
    "TrainTransform",
]
