"""The library's products have the operands, sums and layouts that each format wants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastmmd.backends import products
from tests.device_modes import recorded_products

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS, COLUMNS, WIDTH, FEATURES = 64, 128, 32, 20


def operands(rows: Tensor, format: str) -> products.Operands:
    return products.Operands(rows, rows.T.contiguous() if format == "tf32" else None)


def three_products(format: str, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """The operands of a panel of ROWS and another one of COLUMNS rows, and the three results of one pair."""
    stored = products.operand_dtype(format, dtype)
    packed = operands(torch.randn(ROWS + COLUMNS, WIDTH, device=device).to(stored), format)
    panel, other = slice(0, ROWS), slice(ROWS, ROWS + COLUMNS)
    coefficients = torch.randn(ROWS, COLUMNS, device=device).to(stored)
    mirrored = coefficients.T.contiguous() if format == "tf32" else coefficients.T
    gram = torch.empty(ROWS, COLUMNS, dtype=dtype, device=device)
    products.inner_products(packed.rows[panel, :FEATURES], packed.rows[other, :FEATURES], gram)
    total = torch.ones(ROWS + COLUMNS, WIDTH, dtype=dtype, device=device)
    products.add_weighted(total[panel], coefficients, packed, other)
    products.add_weighted(total[other], mirrored, packed, panel)
    return packed.rows, coefficients, gram, total


@pytest.mark.parametrize(
    ("format", "dtype", "tolerance"),
    [
        ("ieee", torch.float64, 1e-13),
        ("ieee", torch.float32, 1e-5),
        ("tf32", torch.float32, 1e-5),
        ("bf16", torch.float32, 1e-5),
    ],
)
def test_products_of_rounded_operands_are_summed_in_full(format, dtype, tolerance):
    z, c, gram, total = [x.double() for x in three_products(format, CPU, dtype)]
    torch.testing.assert_close(gram, z[:ROWS, :FEATURES] @ z[ROWS:, :FEATURES].T, rtol=0, atol=20 * tolerance)
    weighted = 1 + torch.cat([c @ z[ROWS:], c.T @ z[:ROWS]])
    torch.testing.assert_close(total, weighted, rtol=0, atol=20 * tolerance)


def test_bf16_reaches_the_library_of_a_gpu_as_bf16_with_fp32_sums():
    with recorded_products() as recorded:
        three_products("bf16", CUDA)
    assert [product.name for product in recorded] == ["aten.mm.dtype_out", *["aten.addmm.dtype_out"] * 2]
    for product in recorded:
        assert (product.a.dtype, product.b.dtype) == (torch.bfloat16, torch.bfloat16)
        assert product.out.dtype == torch.float32


def test_tf32_products_are_contiguous_along_the_summed_dimension():
    with recorded_products() as recorded:
        three_products("tf32", CUDA)
    assert [(product.a.shape[1], product.b.shape[0]) for product in recorded] == [
        (FEATURES, FEATURES),
        (COLUMNS, COLUMNS),
        (ROWS, ROWS),
    ]
    for product in recorded:
        assert (product.a.stride(1), product.b.stride(0)) == (1, 1)


def test_sums_are_added_in_place():
    """A `self` of addmm that is not its `out` would be copied first."""
    with recorded_products() as recorded:
        total = torch.zeros(ROWS, WIDTH, device=CUDA)
        packed = operands(torch.zeros(COLUMNS, WIDTH, dtype=torch.bfloat16, device=CUDA), "bf16")
        coefficients = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16, device=CUDA)
        products.add_weighted(total, coefficients, packed, slice(0, COLUMNS))
    assert recorded[0].out is total


@pytest.mark.parametrize(
    ("version", "hip", "device", "format", "taken"),
    [
        ("2.14.1+cu130", None, CUDA, "bf16", "bf16"),
        ("2.11.0", None, CUDA, "bf16", "bf16"),
        ("2.9.1", None, CUDA, "bf16", "tf32"),
        ("2.14.1", "7.0", CUDA, "bf16", "tf32"),
        ("2.9.1", None, CPU, "bf16", "bf16"),
        ("2.14.1", None, CUDA, "tf32", "tf32"),
        ("2.14.1", None, CUDA, "tf32x3", "ieee"),
        ("2.14.1", None, CUDA, "fp64", "ieee"),
        ("2.14.1", None, CUDA, "ieee", "ieee"),
    ],
)
def test_a_library_that_lacks_a_format_takes_a_more_precise_one(monkeypatch, version, hip, device, format, taken):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert products.library_format(device, format) == taken
