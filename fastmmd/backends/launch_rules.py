"""Launch rules: which route and which sizes a problem takes on a GPU. Frozen; nothing is searched for while training.

`python -m bench.tune` measures the rules of the GPU at hand and prints them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastmmd.problem import MAX_LAYERS

UNMEASURED = "not yet measured on a GPU"
# Inner products and coefficients of a pair of panels are written and read three times: less than half of an H100's L2
# (50 MiB) or an L4's (48), so that they stay there beside the rows that are multiplied. With one layer in bf16 panels
# are of 2,048 rows, with two in tf32 of 1,216: smaller ones would keep the host busier than a GPU.
PANELS_BYTES = 24 << 20

Config = TypeVar("Config", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[Config]):
    """One launch configuration and the problems that take it. None stands for no limit.

    config: route and sizes.
    reason: why.
    formats: of the operands of products.
    vendor: of the GPU, "nvidia" or "amd".
    capabilities: of NVIDIA's, the first digit of the compute capability.
    min_rows, max_rows: pooled rows N.
    max_layers: layers.
    max_dim: features of a layer.
    max_width: features of all layers together, each padded as the route pads them.
    max_columns: of a form's W (`fastmmd.call.Form`); 0: plain calls alone.
    rows_beside_gradients: whether K W of a form is taken together with gradients.
    """

    config: Config
    reason: str
    formats: tuple[str, ...]
    vendor: str = "nvidia"
    capabilities: tuple[int, ...] | None = None
    min_rows: int = 2
    max_rows: int | None = None
    max_layers: int = MAX_LAYERS
    max_dim: int | None = None
    max_width: int | None = None
    max_columns: int | None = None
    rows_beside_gradients: bool = True

    def fits(
        self,
        *,
        vendor: str = "nvidia",
        capability: int | None = None,
        rows: int,
        dims: Sequence[int],
        width: int,
        format: str,
        columns: int = 0,
        rows_beside_gradients: bool = False,
    ) -> bool:
        return (
            self.runs_on(vendor, capability)
            and format in self.formats
            and self.min_rows <= rows
            and _within(rows, self.max_rows)
            and len(dims) <= self.max_layers
            and _within(max(dims), self.max_dim)
            and _within(width, self.max_width)
            and _within(columns, self.max_columns)
            and (self.rows_beside_gradients or not rows_beside_gradients)
        )

    def runs_on(self, vendor: str, capability: int | None) -> bool:
        return vendor == self.vendor and (self.capabilities is None or capability in self.capabilities)


def _within(number: int, most: int | None) -> bool:
    return most is None or number <= most
