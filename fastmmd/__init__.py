"""fastmmd: exact MMD and JMMD losses with fused kernels and O(N) memory, for PyTorch."""

from fastmmd._version import __version__ as __version__
from fastmmd.functional import Discrepancy, discrepancy, jmmd, mmd
from fastmmd.gaussian import Gaussian
from fastmmd.installation import build_info
from fastmmd.modules import JMMDLoss, MMDLoss, TransferLoss

__all__ = [
    "Discrepancy",
    "Gaussian",
    "JMMDLoss",
    "MMDLoss",
    "TransferLoss",
    "build_info",
    "discrepancy",
    "jmmd",
    "mmd",
]
