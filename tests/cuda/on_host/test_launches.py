"""How many kernels a call of the routes for many rows launches: torch's, seen by a tensor mode, and the extension's."""

import ctypes
import os
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastmmd.backends import cuda
from fastmmd.backends.cuda import fused, gemm
from tests.helpers import JAN, layers
from tests.routes import route_call


class Operations(TorchDispatchMode):
    """Names of torch's operations, but for views and for memory that is only allocated."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not (func.is_view or name in ("empty", "empty_like", "new_empty")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def launches(config, precision, gradient, n=200, m=140):
    """The extension's launches, and the names of torch's operations."""
    sources, targets = layers(n, (70, 8), 1, dtype=torch.float32), layers(m, (70, 8), 2, 0.2, torch.float32)
    call = route_call(sources, targets, JAN, precision=precision, needs_grad=[gradient] * 4)
    count = ctypes.CDLL(os.environ["FASTMMD_TEST_EXTENSION"]).cuda_on_host_launches
    before = count()
    with Operations() as operations:
        cuda.run(call, config)
    return count() - before, operations.names


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("thread_blocks", [1, 24], ids=["whole", "split"])
@pytest.mark.parametrize("precision", fused.FORMATS)
def test_fused_takes_five_launches_with_or_without_gradients(precision, thread_blocks, gradient):
    assert launches(fused.Config(thread_blocks=thread_blocks, stages=1), precision, gradient) == (5, [])


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_gemm_launches_little_beside_its_products(precision):
    """Packing (3), the pass, finishing; sums that start at 0."""
    config = gemm.Config(workspace_bytes=24 << 20)
    assert launches(config, precision, gradient=False) == (5, ["zeros", "mm", "mm"])
    assert launches(config, precision, gradient=True) == (5, ["zeros", "zeros", "mm", "mm", "addmm_", "addmm_"])


def test_gemm_launches_one_pass_for_each_pair_of_panels():
    pairs, panels = 10, 4  # of 448 packed rows
    config = gemm.Config(workspace_bytes=8 * 2 * 128 * 128)
    extension_launches, operations = launches(config, "tf32", gradient=True)
    assert extension_launches == 4 + pairs
    assert Counter(operations) == {"zeros": 2, "mm": 2 * pairs, "addmm_": 2 * panels**2}
