"""What the Triton routes do with a form before and between their launches. No kernel is launched here."""

import pytest
import torch

from fastmmd.backends.layout import matched
from fastmmd.call import Form
from tests.device_modes import nothing_waits
from tests.helpers import JAN, call_of

pytest.importorskip("triton", reason="Triton is not installed")
from fastmmd.kernels import fused, gemm, launch_rules
from fastmmd.kernels.launch import recording

N, M = 70, 40
CONFIGS = (
    fused.Config(tile=64, columns=32, warps=4, stages=2),
    gemm.Config(rows=32, columns=64, warps=4, workspace_bytes=4 * 2 * 64 * 64),
)


def launches(config, columns, a, n=N, m=M):
    """Of a call with a form on a GPU. a: the shape of A, or None."""
    with nothing_waits(), recording() as recorded:
        sources, targets = ([torch.empty(rows, d, device="cuda") for d in (70, 8)] for rows in (n, m))
        matrix = None if a is None else torch.empty(a, dtype=torch.float64, device="cuda")
        form = Form(torch.empty(n + m, columns, device="cuda"), matrix, needs_rows=True)
        call = call_of(sources, targets, JAN, form=form, needs_grad=[a is not None] * 4)
        result = launch_rules.ROUTES[type(config)](matched(call), "ieee", config)
    assert result.rows.shape == (n + m, columns)
    return recorded


@pytest.mark.parametrize("config", CONFIGS, ids=["fused", "gemm"])
@pytest.mark.parametrize("a", [(6, 6), (6,), None], ids=str)
@pytest.mark.parametrize("m", [M, 0])
def test_no_form_waits_for_the_device(config, a, m):
    launches(config, 6, a, m=m)


@pytest.mark.parametrize("config", CONFIGS, ids=["fused", "gemm"])
def test_a_form_takes_one_launch_more_than_a_plain_call_before_its_pass(config):
    names = [launch.kernel.__name__ for launch in launches(config, 6, (6,))]
    assert names[:4] == ["column_sums", "centre", "find_bandwidths", "pack_weights"]
    assert names.count("pack_weights") == 1


def test_other_weights_compile_nothing_anew():
    """The number of columns is a constant of kernels that multiply them, and where the library does not even that."""

    def constants(columns, n):
        return [repr(launch.options) for launch in launches(CONFIGS[1], columns, (columns,), n=n)]

    assert constants(6, 70) == constants(6, 69)
    assert constants(31, 70) == constants(33, 69)
