"""The launch rules of backend "cuda", tried from the top (fastmmd/backends/launch_rules.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from fastmmd.backends.cuda import fused, gemm, small
from fastmmd.backends.launch_rules import PANELS_BYTES, UNMEASURED, Rule
from fastmmd.call import Call

Config = small.Config | fused.Config | gemm.Config
FORMATS = ("fp64", "ieee", "tf32x3", "tf32", "bf16")
SMALL_ROWS = 256

RULES: tuple[Rule[Config], ...] = (
    Rule(
        config=small.Config(part_features=64, chunk=32),
        formats=FORMATS,
        max_rows=SMALL_ROWS,
        max_width=512,
        reason="64 + 64 rows of 256 features are 40 thread blocks in the first launch and 32 in the second, each a "
        "single wave; smaller chunks repeat the coefficients more often than they fill the GPU. " + UNMEASURED,
    ),
    Rule(
        config=small.Config(part_features=256, chunk=64),
        formats=FORMATS,
        max_rows=SMALL_ROWS,
        max_width=4096,
        reason="64 + 64 rows of 2048 features: 80 thread blocks, then 128. Every one of the second launch reads all "
        "parts of its rows' distances again, so parts are few. " + UNMEASURED,
    ),
    Rule(
        config=small.Config(part_features=2048, chunk=64),
        formats=FORMATS,
        max_rows=SMALL_ROWS,
        max_width=32768,
        reason="at most 16 parts up to d = 32,768; the second launch alone fills the GPU. " + UNMEASURED,
    ),
    Rule(
        config=fused.Config(thread_blocks=264, stages=2),
        formats=fused.FORMATS,
        min_rows=4096,
        reason="twice as many thread blocks as an H200 has multiprocessors, each of which holds one (up to 128 "
        "features, two): no long tail. " + UNMEASURED,
    ),
    Rule(
        config=fused.Config(thread_blocks=264, stages=1),
        formats=fused.FORMATS,
        min_rows=4096,
        reason="where two stages do not fit into shared memory. " + UNMEASURED,
    ),
    Rule(
        config=gemm.Config(workspace_bytes=PANELS_BYTES),
        formats=FORMATS,
        reason="what a pair of panels writes and reads again stays in the L2. " + UNMEASURED,
    ),
)


def product_format(precision: str, call: Call) -> str:
    """The format of the products' operands: never less precise than asked for."""
    return "fp64" if call.dtype == torch.float64 else precision


@lru_cache(maxsize=256)
def choose(n: int, dims: Sequence[int], format: str, shared_memory: int) -> Rule[Config]:
    """The first rule for N pooled rows, layers of `dims` features, and the shared memory of a thread block."""
    width = sum(fused.padded_widths(dims))
    return next(
        rule
        for rule in RULES
        if rule.fits(rows=n, dims=dims, width=width, format=format)
        and (not isinstance(rule.config, fused.Config) or fused.fits(dims, format, rule.config, shared_memory))
    )


@lru_cache(maxsize=256)
def choose_for_form(dims: Sequence[int]) -> Rule[Config]:
    """The rule for a call with weights of pairs, up to `SMALL_ROWS` rows: route small alone takes them, in any format.
    Wider layers than its rules are for take the last of these."""
    width = sum(fused.padded_widths(dims))
    rules = [rule for rule in RULES if isinstance(rule.config, small.Config)]
    return next((rule for rule in rules if rule.max_width is None or width <= rule.max_width), rules[-1])
