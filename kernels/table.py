"""The launch table: which route and which sizes a problem takes. Frozen; nothing is searched for while training.

`python -m bench.tune` measures the lines on the GPU at hand and prints the table anew. Lines are tried from the top.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch

from fastmmd.kernels import blocks, small, tiles

Config = small.Config | tiles.Config | blocks.Config
ROUTES: dict[type, Callable] = {small.Config: small.run, tiles.Config: tiles.run, blocks.Config: blocks.run}
UNMEASURED = "not yet measured on a GPU"


class Line(NamedTuple):
    """
    vendor: "nvidia" or "amd".
    formats: of products (see `product_format`).
    rows: fewest and most pooled rows.
    layers: at most.
    dim: most features of a layer.
    width: most features of all layers, each padded as the tiles are (`tiles.chunks`).
    """

    vendor: str
    formats: tuple[str, ...]
    rows: tuple[int, int]
    layers: int
    dim: int
    width: int
    config: Config
    reason: str


ANY = 1 << 62
ALL = ("ieee", "tf32x3", "tf32", "bf16")

TABLE = (
    Line(
        *("nvidia", ALL, (2, 256), 3, 32768, ANY),
        small.Config(tile=32, features=32, chunk=64, part_features=256, max_parts=8, warps=8, stages=2),
        "64 + 64 rows are 10 pairs of 32-row tiles; 8 parts of d = 2048 make 80 programs of them, then 32 chunks 128, "
        "near the 132 multiprocessors of an H200. Every chunk reads all parts again, so fewer parts than fill the GPU. "
        f"8 warps: with 4, fp32 products of d = 64 spill. {UNMEASURED}",
    ),
    Line(
        *("nvidia", ALL, (2, 256), 8, 32768, ANY),
        small.Config(tile=32, features=32, chunk=32, part_features=256, max_parts=8, warps=8, stages=1),
        f"8 layers leave registers for 32 features a chunk. {UNMEASURED}",
    ),
    Line(
        *("amd", ALL, (2, 256), 8, 32768, ANY),
        small.Config(tile=32, features=32, chunk=32, part_features=256, max_parts=8, warps=4, stages=2),
        f"as the first line; wavefronts of 64 threads hold 8 layers without spilling. {UNMEASURED}",
    ),
    Line(
        *("nvidia", ("bf16",), (4096, ANY), 2, 256, 272),
        tiles.Config(tile=64, columns=32, warps=8, stages=2),
        "the largest tile whose sums of 256 + 8 features stay in registers on sm_90 and sm_100; fp32 operands must be "
        f"transposed through registers for the second product and spill, so tf32 takes blocks. {UNMEASURED}",
    ),
    Line(
        *("nvidia", ALL, (2, ANY), 3, ANY, ANY),
        blocks.Config(tile=32, warps=4, workspace_bytes=64 << 20),
        "64 MiB of inner products are 2,880 rows a side with two layers, where a matrix product is at full speed; a "
        f"pass over 32 x 32 pairs with 4 warps keeps 3 layers in registers. {UNMEASURED}",
    ),
    Line(
        *("nvidia", ALL, (2, ANY), 8, ANY, ANY),
        blocks.Config(tile=32, warps=8, workspace_bytes=64 << 20),
        f"half the pairs a thread for twice the layers. {UNMEASURED}",
    ),
    Line(
        *("amd", ALL, (2, ANY), 8, ANY, ANY),
        blocks.Config(tile=32, warps=4, workspace_bytes=64 << 20),
        f"as above. {UNMEASURED}",
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
def line(vendor: str, n: int, dims: tuple[int, ...], format: str) -> Line:
    """The first line that fits N pooled rows and layers of `dims` features."""
    counts, widths = tiles.chunks(dims)
    width = sum(count * width for count, width in zip(counts, widths, strict=True))
    return next(
        line
        for line in TABLE
        if line.vendor == vendor
        and format in line.formats
        and line.rows[0] <= n <= line.rows[1]
        and len(dims) <= line.layers
        and max(dims) <= line.dim
        and width <= line.width
    )
