"""fastmmd: exact MMD and JMMD losses with fused kernels and O(N) memory, for PyTorch."""

from pathlib import Path as _Path
from pkgutil import extend_path as _extend_path

_here = _Path(__file__).resolve().parent
if not (_here / "kernels").is_dir() and (_here.parent / "pyproject.toml").is_file():
    # A source checkout: kernels/ and models/ lie beside this folder, and only the compiled part may come from an
    # installed copy. (An installed copy has kernels/ inside, so no stranger's `kernels` is ever picked up.)
    __path__.append(str(_here.parent))
    if not any(_here.glob("_C*")):
        __path__ = _extend_path(__path__, __name__)

from fastmmd.environment import build_info  # noqa: E402
from fastmmd.functional import Discrepancy, discrepancy, jmmd, mmd  # noqa: E402
from fastmmd.gaussian import Gaussian  # noqa: E402
from fastmmd.modules import JMMDLoss, MMDLoss, TransferLoss  # noqa: E402

__version__ = "0.1.0"

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
