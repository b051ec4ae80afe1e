"""The launch rules of the Triton kernels, tried from the top (fastmmd/backends/launch_rules.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from fastmmd.backends.launch_rules import PANELS_BYTES, UNMEASURED, Rule
from fastmmd.call import Call, Result
from fastmmd.kernels import fused, gemm, small

Config = small.Config | fused.Config | gemm.Config
# (call with matched layers (fastmmd/backends/layout.py), format of the products, config) -> Result
ROUTES: dict[type, Callable[..., Result]] = {
    small.Config: small.run,
    fused.Config: fused.run,
    gemm.Config: gemm.run,
}
# First digits of compute capabilities: with programmatic dependent launch; with tensor cores that read shared memory.
OVERLAPPING, READS_SHARED = (9, 10, 11, 12), (9, 10, 11)
FORMATS = ("ieee", "tf32x3", "tf32", "bf16")

RULES: tuple[Rule[Config], ...] = (
    Rule(
        vendor="nvidia",
        capabilities=OVERLAPPING,
        config=small.Config(
            tile=32, features=32, chunk=64, part_features=256, max_parts=8, warps=8, stages=2, overlap=True
        ),
        formats=FORMATS,
        max_rows=256,
        max_columns=0,
        max_layers=3,
        max_dim=32768,
        reason="64 + 64 rows are 10 pairs of 32-row tiles; 8 parts of d = 2048 make 80 programs of them, then 32 "
        "chunks 128, near the 132 multiprocessors of an H200. Every chunk reads all parts again, so fewer parts than "
        "fill the GPU. 8 warps: with 4, fp32 products of d = 64 spill. The second launch reads its rows while the "
        "first one ends. Weights of pairs would be multiplied in every chunk's program. " + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        capabilities=(8,),
        config=small.Config(
            tile=32, features=32, chunk=64, part_features=256, max_parts=8, warps=8, stages=2, overlap=False
        ),
        formats=FORMATS,
        max_rows=256,
        max_columns=0,
        max_layers=3,
        max_dim=32768,
        reason="the same for compute capability 8, whose launches don't overlap. " + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        config=small.Config(
            tile=32, features=32, chunk=32, part_features=256, max_parts=8, warps=8, stages=1, overlap=False
        ),
        formats=FORMATS,
        max_rows=256,
        max_columns=0,
        max_dim=32768,
        reason="8 layers leave registers for 32 features per chunk. " + UNMEASURED,
    ),
    Rule(
        vendor="amd",
        config=small.Config(
            tile=32, features=32, chunk=32, part_features=256, max_parts=8, warps=4, stages=2, overlap=False
        ),
        formats=FORMATS,
        max_rows=256,
        max_columns=0,
        max_dim=32768,
        reason="as the first rule; wavefronts of 64 threads hold 8 layers without spilling. " + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        capabilities=READS_SHARED,
        config=fused.Config(tile=64, columns=32, warps=4, stages=2),
        formats=("bf16", "tf32"),
        min_rows=4096,
        max_layers=2,
        max_dim=256,
        max_width=272,
        max_columns=fused.MOST_COLUMNS,
        rows_beside_gradients=False,
        reason="256 + 8 features in bf16 are 47 instructions per pair on sm_90, 256 are 32, so that issue slots allow "
        "more than 60 % of the tensor cores' rate; two programs share a multiprocessor, and one multiplies while the "
        "other turns pairs into coefficients. 128 rows count as low, but their 8 warps wait for each other. Sample "
        "weights take 6 to 12 instructions per pair more, a form of up to 16 columns 17 to 19; sums of K W beside "
        "those of gradients spill. " + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        capabilities=(8, 12),
        config=fused.Config(tile=64, columns=16, warps=4, stages=2),
        formats=("bf16", "tf32"),
        min_rows=4096,
        max_layers=2,
        max_dim=256,
        max_width=272,
        max_columns=fused.MOST_COLUMNS,
        rows_beside_gradients=False,
        reason="mma.sync takes its operands from registers, which hold 16 columns at a time beside 256 + 8 features: "
        "32 columns spill 1,600 instructions instead of 50, and their 100 KiB (TF32) would be too much for sm_86, "
        "sm_89 and sm_120. " + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        config=gemm.Config(rows=32, columns=64, warps=4, workspace_bytes=PANELS_BYTES),
        formats=FORMATS,
        max_layers=3,
        reason="16 pairs per thread: 39 (bf16) to 48 (tf32) instructions per pair with two layers, and 90 registers at "
        "most; 8 pairs take a fifth more, 32 a tenth less and twice the registers. Takes forms of any size. "
        + UNMEASURED,
    ),
    Rule(
        vendor="nvidia",
        config=gemm.Config(rows=32, columns=32, warps=4, workspace_bytes=PANELS_BYTES),
        formats=FORMATS,
        reason="8 pairs per thread: 8 layers spill with 16. " + UNMEASURED,
    ),
    Rule(
        vendor="amd",
        config=gemm.Config(rows=32, columns=64, warps=4, workspace_bytes=PANELS_BYTES),
        formats=FORMATS,
        reason="wavefronts of 64 threads: 8 pairs per thread, which 8 layers allow. " + UNMEASURED,
    ),
)


def vendor() -> str:
    return "nvidia" if torch.version.hip is None else "amd"


def product_format(vendor: str, precision: str, dtype: torch.dtype) -> str:
    """The format of the products' operands: never less precise than asked for. AMD has fp32 matrix instructions, and
    Triton has no TF32 for most of its chips."""
    if dtype == torch.float64 or (vendor == "amd" and precision in ("tf32x3", "tf32")):
        return "ieee"
    return precision


@lru_cache(maxsize=256)
def choose(
    vendor: str,
    capability: int | None,
    n: int,
    dims: tuple[int, ...],
    format: str,
    columns: int = 0,
    rows_beside_gradients: bool = False,
) -> Rule[Config]:
    """The first rule that fits N pooled rows and layers of `dims` features. `capability`: the first digit of the
    compute capability, None for AMD. `columns`: of a form's W, 0 for a plain call; `rows_beside_gradients`: whether it
    needs both."""
    width = sum(fused.padded_widths(dims))
    return next(
        rule
        for rule in RULES
        if rule.fits(
            vendor=vendor,
            capability=capability,
            rows=n,
            dims=dims,
            width=width,
            format=format,
            columns=columns,
            rows_beside_gradients=rows_beside_gradients,
        )
    )


def choose_for(call: Call, vendor: str, capability: int | None, format: str) -> Rule[Config]:
    rows_beside_gradients = call.form is not None and call.form.needs_rows and any(call.needs_grad)
    return choose(vendor, capability, call.problem.n, call.dims, format, call.form_columns, rows_beside_gradients)
