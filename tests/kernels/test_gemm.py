"""What route "gemm" hands to the library and to its pass. No kernel is launched here."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmmd.backends import panels
from fastmmd.backends.layout import matched
from fastmmd.call import Form
from tests import machine_code
from tests.device_modes import recorded_products
from tests.helpers import JAN, call_of

pytest.importorskip("triton", reason="Triton is not installed")
from fastmmd.kernels import gemm
from fastmmd.kernels.launch import recording
from fastmmd.kernels.launch_rules import RULES
from tests.kernels import aot

CONFIG = next(rule.config for rule in RULES if isinstance(rule.config, gemm.Config))  # of up to three layers
ROWS, DIMS = 300, (70, 8)  # of each domain; three panels of 256 rows


def products_and_passes(format):
    """Of a call on a GPU, in panels of 256 rows: the library's products, and the launches of the pass."""
    config = replace(CONFIG, workspace_bytes=8 * 2 * 256 * 256)
    with recorded_products() as products, recording() as launches:
        inputs = [torch.empty(ROWS, d, device="cuda") for d in DIMS]
        gemm.run(matched(call_of(inputs, inputs, JAN)), format, config)
    return products, [launch for launch in launches if launch.kernel is gemm.inner_products_to_coefficients]


@pytest.mark.parametrize(("format", "operands"), [("bf16", torch.bfloat16), ("tf32", torch.float32)])
def test_every_product_has_the_operands_of_its_format(format, operands):
    products, passes = products_and_passes(format)
    panels = round((2 * len(passes) + 0.25) ** 0.5 - 0.5)
    assert panels * (panels + 1) == 2 * len(passes)
    # Per layer one inner product for each pair of panels, and a weighted sum for each of the two.
    assert len(products) == len(DIMS) * (len(passes) + panels**2)
    for product in products:
        assert {product.a.dtype, product.b.dtype} == {operands}
        assert product.out.dtype == torch.float32


def test_every_tf32_product_is_contiguous_along_the_summed_dimension():
    """Hopper multiplies 32-bit operands in no other layout; a library would transpose them first, or use another
    instruction."""
    products, _ = products_and_passes("tf32")
    for product in products:
        assert (product.a.stride(1), product.b.stride(0)) == (1, 1)


def products_of_form(format, columns, *, a=True, needs_rows=True):
    """Those whose operands or output have a side of `columns`, or neither features nor ones."""
    config = replace(CONFIG, workspace_bytes=8 * 2 * 256 * 256)
    with recorded_products() as products, recording() as launches:
        inputs = [torch.empty(ROWS, d, device="cuda") for d in DIMS]
        matrix = torch.empty(columns, dtype=torch.float64, device="cuda") if a else None
        form = Form(torch.empty(2 * ROWS, columns, device="cuda"), matrix, needs_rows)
        needs_grad = [a] * (2 * len(DIMS))
        gemm.run(matched(call_of(inputs, inputs, JAN, form=form, needs_grad=needs_grad)), format, config)
    passes = [launch for launch in launches if launch.kernel is gemm.inner_products_to_coefficients]
    return [p for p in products if columns in (*p.a.shape, *p.b.shape)], passes


@pytest.mark.parametrize("format", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize(
    ("columns", "a", "needs_rows", "per_pair", "per_panel"),
    [
        (2, True, False, 0, 0),  # the pass makes the weights of pairs
        (6, True, True, 0, 1),
        (31, True, False, 1, 0),
        (31, True, True, 1, 1),
        (100, False, True, 0, 1),  # no weights of pairs, K W alone
    ],
)
def test_weights_are_multiplied_in_full_precision(format, columns, a, needs_rows, per_pair, per_panel):
    """By one product for each pair of panels, and one for K W of each of its panels."""
    products, passes = products_of_form(format, columns, a=a, needs_rows=needs_rows)
    panels = round((2 * len(passes) + 0.25) ** 0.5 - 0.5)
    assert panels > 1
    assert len(products) == per_pair * len(passes) + per_panel * panels**2
    for product in products:
        assert product.precision == "ieee"
        assert {x.dtype for x in (product.a, product.b, product.out)} == {torch.float32}


def test_the_pass_of_rows_alone_makes_neither_sums_nor_coefficients():
    _, passes = products_of_form("bf16", 100, a=False)
    for launch in passes:
        names = launch.kernel.arg_names
        arguments = dict(zip(names, launch.args, strict=False))
        assert arguments["partial_sums_ptr"] is None
        assert set(arguments["coefficients_ptrs"]) == {None}
        assert arguments["kernel_ptr"] is not None


@pytest.mark.parametrize("format", ["ieee", "tf32", "bf16"])
def test_matrices_are_aligned_to_16_bytes(format):
    """So that the library and the pass move 16 bytes at a time."""
    products, _ = products_and_passes(format)
    for product in products:
        for matrix in (product.a, product.b, product.out):
            pitch = max(matrix.stride())
            assert pitch * matrix.element_size() % 16 == 0
            assert matrix.storage_offset() * matrix.element_size() % 16 == 0


@given(
    total=st.integers(1, 1 << 11).map(lambda tiles: 64 * tiles),
    layers=st.integers(1, 8),
    format=st.sampled_from(["ieee", "tf32", "bf16"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    with_form=st.booleans(),
)
def test_the_workspace_stays_in_its_bytes(total, layers, format, dtype, with_form):
    """Except for a single tile of pairs."""
    format = "ieee" if dtype == torch.float64 else format
    bytes_limit = CONFIG.workspace_bytes
    workspace = panels.make_workspace(
        total, layers, format, dtype, torch.device("meta"), bytes_limit, with_form=with_form
    )
    assert (workspace.of_form is not None) == with_form
    buffers = {id(buffer): buffer.nbytes for buffer in workspace[1:] if buffer is not None}
    assert workspace.side % 64 == 0
    assert sum(buffers.values()) <= CONFIG.workspace_bytes or workspace.side == 64
    assert workspace.side >= min(total, 256)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("format", ["ieee", "tf32", "bf16"])
def test_the_pass_issues_few_instructions_per_pair_and_moves_16_bytes_at_a_time(target, format, tmp_path):
    """It is bound by what it issues: two layers, of five Gaussians and of one, took 99."""
    config = replace(CONFIG, workspace_bytes=8 * 2 * 256 * 256)
    with recorded_products(), recording() as launches:
        inputs = [torch.empty(ROWS, d, device="cuda") for d in (256, 8)]
        gemm.run(matched(call_of(inputs, inputs, JAN)), format, config)
    passes = [launch for launch in launches if launch.kernel is gemm.inner_products_to_coefficients]
    launch = next(launch for launch in passes if not launch.options["ONE_PANEL"])
    cubin = tmp_path / "pass.cubin"
    cubin.write_bytes(aot.compile(launch, target).asm["cubin"])
    (text,) = machine_code.kernels(machine_code.disassembly(cubin)).values()
    loop = machine_code.pair_loop(text)
    pairs_per_thread = config.rows * config.columns / (32 * config.warps)
    assert loop.instructions <= 50 * pairs_per_thread
    assert loop.count(machine_code.SPILLS) == 0
    # Two layers are read and written; tf32 writes the transposed coefficients too.
    read, written = 2 * 4, {"ieee": 2 * 4, "tf32": 2 * 8, "bf16": 2 * 2}[format]
    assert 16 * loop.count(["LDG.E.128"]) >= read * pairs_per_thread
    assert 16 * loop.count(["STG.E.128"]) >= written * pairs_per_thread
