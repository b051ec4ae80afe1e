"""fastmmd: exact MMD and JMMD losses with fused kernels and O(N) memory, for PyTorch."""

from fastmmd._version import __version__ as __version__
from fastmmd.forms import kernel_forms
from fastmmd.functional import Discrepancy, discrepancy, jmmd, mmd
from fastmmd.gaussian import Gaussian
from fastmmd.installation import build_info
from fastmmd.local_mmd import lmmd
from fastmmd.modules import JMMDLoss, LMMDLoss, MMDLoss, TransferLoss
from fastmmd.pairwise import PairwiseMMD, pairwise_mmd

__all__ = [
    "Discrepancy",
    "Gaussian",
    "JMMDLoss",
    "LMMDLoss",
    "MMDLoss",
    "PairwiseMMD",
    "TransferLoss",
    "build_info",
    "discrepancy",
    "jmmd",
    "kernel_forms",
    "lmmd",
    "mmd",
    "pairwise_mmd",
]
