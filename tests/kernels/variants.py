"""Every kernel that the launch rules can send to a GPU, as recorded launches on made-up inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from fastmmd import Gaussian
from fastmmd.backends.layout import matched
from fastmmd.call import Call, Form
from fastmmd.kernels import launch_rules
from fastmmd.kernels.launch import Launch, recording
from fastmmd.problem import Objective

FEATURES, SOFTMAX = Gaussian(), Gaussian(1.68, (1,))


class Variant(NamedTuple):
    """
    n: rows of each domain.
    dtypes: one per layer; the last counts for the rest.
    needs_grad: source, target.
    given: whether bandwidths are given, as for a median.
    padding: elements between rows.
    columns: of a form; 0 for a plain call.
    needs_rows: whether K W is wanted; without gradients alone.
    """

    name: str
    dims: tuple[int, ...]
    n: int = 64
    precision: str = "ieee"
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    needs_grad: tuple[bool, bool] = (True, True)
    given: bool = False
    padding: int = 0
    columns: int = 0
    needs_rows: bool = False

    def launches(self, vendor: str, capability: int | None) -> list[Launch]:
        call = self.call()
        format = launch_rules.product_format(vendor, self.precision, call.dtype)
        config = launch_rules.choose_for(call, vendor, capability, format).config
        with recording() as launches:
            launch_rules.ROUTES[type(config)](matched(call), format, config)
        return launches

    def call(self) -> Call:
        layers = len(self.dims)
        dtypes = [self.dtypes[min(l, len(self.dtypes) - 1)] for l in range(layers)]
        kernels = tuple([(SOFTMAX if d < 64 else FEATURES).static for d in self.dims])
        form = self.form()
        objective = Objective(kernels, 1.0, (0.3,) * layers, "biased", form is not None)
        inputs = [
            torch.zeros((self.n, d + self.padding), dtype=dtype)[:, :d]
            for d, dtype in zip(self.dims, dtypes, strict=True)
        ]
        return Call(
            problem=objective.problem(self.n, self.n),
            sources=inputs,
            targets=inputs,
            bandwidths=torch.ones(layers, dtype=torch.float64) if self.given else None,
            needs_grad=[needed for needed in self.needs_grad for _ in self.dims],
            form=form,
        )

    def form(self) -> Form | None:
        if not self.columns:
            return None
        w = torch.zeros(2 * self.n, self.columns, dtype=self.dtypes[0])
        rows_alone = self.needs_rows and not any(self.needs_grad)
        return Form(w, None if rows_alone else torch.eye(self.columns, dtype=torch.float64), self.needs_rows)


# Shapes that people train with (bench/cases.py), and the edges of each launch rule.
VARIANTS = (
    Variant("JMMD (256, 31)", (256, 31)),
    Variant("JMMD (2048, 8), fp16 features", (2048, 8), dtypes=(torch.float16, torch.float32)),
    Variant("JMMD (2048, 8), bf16 features, bf16", (2048, 8), dtypes=(torch.bfloat16, torch.float32), precision="bf16"),
    Variant("JMMD (2048, 8), tf32", (2048, 8), precision="tf32"),
    Variant("JMMD (2048, 8), tf32x3", (2048, 8), precision="tf32x3"),
    Variant("JMMD (256, 8), fp64", (256, 8), dtypes=(torch.float64,)),
    Variant("MMD 2048", (2048,)),
    Variant("JMMD (256, 31), loss only", (256, 31), needs_grad=(False, False)),
    Variant("JMMD (256, 31), target only", (256, 31), needs_grad=(False, True)),
    Variant("JMMD (1, 17), one row each, given bandwidths", (1, 17), n=1, given=True),
    Variant("JMMD (255, 7), odd strides, fp16", (255, 7), dtypes=(torch.float16,), padding=2),
    Variant("JMMD of 8 layers", (256,) * 7 + (31,)),
    Variant("MMD 256, many rows, bf16", (256,), n=2048, precision="bf16"),
    Variant("JMMD (256, 8), many rows, bf16", (256, 8), n=2048, precision="bf16"),
    Variant("JMMD (256, 8), many rows, bf16, loss only", (256, 8), n=2048, precision="bf16", needs_grad=(False, False)),
    Variant(
        "JMMD (256, 8), many rows, bf16, source only", (256, 8), n=2048, precision="bf16", needs_grad=(True, False)
    ),
    Variant("JMMD (256, 8), many rows, tf32", (256, 8), n=2048, precision="tf32"),
    Variant("JMMD (2048, 8), many rows", (2048, 8), n=1024),
    Variant("JMMD (2048, 8), many rows, source only", (2048, 8), n=1024, needs_grad=(True, False)),
    Variant("JMMD (2048, 8), many rows, tf32", (2048, 8), n=1024, precision="tf32"),
    Variant("JMMD (2048, 8), many rows, bf16", (2048, 8), n=1024, precision="bf16"),
    Variant("JMMD (256, 8), many rows, fp64", (256, 8), n=256, dtypes=(torch.float64,)),
    Variant("JMMD of 8 layers, many rows", (64,) * 8, n=256),
    # Forms: sample weights, groups with the values of their pairs, classes of the local MMD, `kernel_forms` forward.
    Variant("JMMD (256, 8), many rows, bf16, sample weights", (256, 8), n=2048, precision="bf16", columns=1),
    Variant("JMMD (256, 8), many rows, bf16, unbiased, sample weights", (256, 8), n=2048, precision="bf16", columns=2),
    Variant("JMMD (256, 8), many rows, tf32, sample weights", (256, 8), n=2048, precision="tf32", columns=1),
    Variant("JMMD (256, 8), many rows, bf16, 16 columns", (256, 8), n=2048, precision="bf16", columns=16),
    Variant(
        "JMMD (256, 8), many rows, bf16, 16 forms",
        (256, 8),
        n=2048,
        precision="bf16",
        needs_grad=(False, False),
        columns=16,
        needs_rows=True,
    ),
    Variant("JMMD (2048, 8), many rows, sample weights", (2048, 8), n=1024, columns=1),
    Variant("JMMD (2048, 8), many rows, bf16, sample weights", (2048, 8), n=1024, precision="bf16", columns=1),
    Variant(
        "JMMD (2048, 8), many rows, tf32, 6 groups", (2048, 8), n=1024, precision="tf32", columns=6, needs_rows=True
    ),
    Variant("JMMD (2048, 8), many rows, 31 classes", (2048, 8), n=1024, columns=31),
    Variant(
        "JMMD (2048, 8), many rows, 100 forms",
        (2048, 8),
        n=1024,
        needs_grad=(False, False),
        columns=100,
        needs_rows=True,
    ),
    Variant("JMMD (256, 8), many rows, fp64, sample weights", (256, 8), n=256, dtypes=(torch.float64,), columns=1),
    Variant("JMMD of 8 layers, many rows, sample weights", (64,) * 8, n=256, columns=1),
)


def unique_launches(vendor: str, capability: int | None) -> Iterator[tuple[str, Launch]]:
    """(variant and kernel, launch), each kernel once per set of compile-time arguments and types."""
    seen = set()
    for variant in VARIANTS:
        for launch in variant.launches(vendor, capability):
            key = (launch.kernel.__name__, repr([_kind(arg) for arg in launch.args]), repr(launch.options))
            if key not in seen:
                seen.add(key)
                panels = ", one panel" if launch.options.get("ONE_PANEL") else ""
                yield f"{variant.name}: {launch.kernel.__name__}{panels}", launch


def _kind(arg: object) -> object:
    if isinstance(arg, tuple):
        return tuple([_kind(element) for element in arg])
    if isinstance(arg, int):
        return arg == 1, arg % 16 == 0  # what the launcher makes constants of
    return arg.dtype if isinstance(arg, torch.Tensor) else type(arg)
