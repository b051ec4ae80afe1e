"""What bench/values.py computes of calls whose pairs have weights: each public function by every backend that takes its
rows, against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastmmd
from bench.cases import JAN, Case
from bench.variants import ALLOWED, ALLOWED_FP64, ROUNDING, gradient_error
from fastmmd.backends.cuda.launch_rules import SMALL_ROWS

DENSE_ROWS = 256  # up to so many the truth comes from the dense reference, beyond from tiles in fp64
CLASSES, GROUPS, COLUMNS = 31, 6, 33
SIZES = {
    "sample weights": ((64, 64, (256, 31)), (4096, 4096, (256, 8))),
    "groups": ((100, 92, (256, 8)), (1000, 1100, (256, 8))),
    "local MMD": ((64, 60, (256,)), (2100, 2050, (256,))),
    "forms": ((40, 33, (70, 8)), (300, 1000, (256,))),
}
KINDS = (
    ("ieee", torch.float32),
    ("tf32", torch.float32),
    ("bf16", torch.bfloat16),
    ("ieee", torch.float64),
)


class FormVariant(NamedTuple):
    """One value to compute. route: the name of a backend and "-forms". kind: a key of `SIZES`."""

    route: str
    precision: str
    dtype: torch.dtype
    kind: str
    sizes: tuple[int, int, tuple[int, ...]]

    @property
    def case(self) -> Case:
        n, m, dims = self.sizes
        return Case("", n, m, dims, JAN[: len(dims)], precision=self.precision)

    @property
    def backend(self) -> str:
        return self.route.removesuffix("-forms")

    @property
    def allowed(self) -> tuple[float, float]:
        """The errors that the loss and the gradients may have."""
        of_loss = ALLOWED_FP64 if self.dtype == torch.float64 else ALLOWED[self.precision]
        return of_loss, max(of_loss, ROUNDING.get(self.dtype, 0.0))

    def described(self) -> dict[str, Any]:
        n, m, dims = self.sizes
        dtype = str(self.dtype).removeprefix("torch.")
        kind = {"route": self.route, "form": self.kind, "precision": self.precision, "dtype": dtype}
        return kind | {"n": n, "m": m, "dims": dims}

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Sources and targets in the variant's dtype, leaves that require gradients."""
        sources, targets = self.case.inputs(device)
        return [x.detach().to(self.dtype).requires_grad_() for x in (*sources, *targets)]

    def errors(self, device: torch.device) -> dict[str, Any]:
        return errors(self, lambda inputs: loss_of(self, inputs, self.backend), device)


def form_variants(route: str) -> list[FormVariant]:
    """What is computed of the route "<backend>-forms", few rows first. Backend "cuda" takes no more of them."""
    sizes = [(kind, pair[position]) for position in (0, 1) for kind, pair in SIZES.items()]
    return [
        FormVariant(route, precision, dtype, kind, size)
        for kind, size in sizes
        for precision, dtype in KINDS
        if route != "cuda-forms" or size[0] + size[1] <= SMALL_ROWS
    ]


def errors(variant: FormVariant, loss: Callable[[list[Tensor]], Tensor], device: torch.device) -> dict[str, Any]:
    """How far a loss is off that should be the variant's, and whether that is allowed."""
    inputs = variant.inputs(device)
    value = loss(inputs)
    gradients = torch.autograd.grad(value, inputs)
    exact, exact_gradients = _exact(variant.kind, variant.sizes, variant.dtype, device)
    loss_error, error = abs(value.item() - exact.item()), gradient_error(gradients, exact_gradients)
    allowed, allowed_gradient = variant.allowed
    return {
        "loss_error": loss_error,
        "gradient_error": error,
        "allowed": [allowed, allowed_gradient],
        "right": loss_error <= allowed and error <= allowed_gradient,  # a NaN is not
    }


def loss_of(variant: FormVariant, inputs: Sequence[Tensor], backend: str) -> Tensor:
    """The loss of a variant's kind at `inputs`, sources first."""
    layers = len(inputs) // 2
    sources, targets = inputs[:layers], inputs[layers:]
    pooled = [torch.cat(pair) for pair in zip(sources, targets, strict=True)]
    n, m, device = len(sources[0]), len(targets[0]), inputs[0].device
    options: dict[str, Any] = {"backend": backend, "precision": variant.precision}
    kernels = variant.case.kernels
    row = torch.arange(n + m, device=device)
    if variant.kind == "sample weights":
        weights = 1.0 + row % 7
        options |= {"source_weights": weights[:n], "target_weights": weights[n:]}
        return fastmmd.jmmd(sources, targets, kernels, **options)
    if variant.kind == "groups":
        # Rows in turn; half of the groups are of sources, half of targets.
        groups = torch.cat([row[:n] % (GROUPS // 2), GROUPS // 2 + row[n:] % (GROUPS // 2)])
        return fastmmd.pairwise_mmd(pooled, groups, kernels, num_groups=GROUPS, **options).loss
    if variant.kind == "local MMD":
        probabilities = torch.nn.functional.one_hot(row[n:] % CLASSES, CLASSES).float() + 0.5
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
        return fastmmd.lmmd(sources, targets, row[:n] % CLASSES, probabilities, kernels, **options)
    assert variant.kind == "forms"
    # A column of the domains, and others in which some even rows have the other sign.
    sign = torch.where(row < n, 1 / n, -1 / m)[:, None]
    turned = (row[:, None] % torch.arange(2, COLUMNS + 1, device=device) == 0) & (row[:, None] % 2 == 0)
    w = torch.cat([sign, torch.where(turned, -sign, sign)], 1)
    return fastmmd.kernel_forms(pooled, kernels, w, **options).mean()


@cache
def _exact(
    kind: str, sizes: tuple[int, int, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients in fp64, at inputs that are rounded to `dtype`."""
    variant = FormVariant("", "ieee", dtype, kind, sizes)
    inputs = [x.detach().double().requires_grad_() for x in variant.inputs(device)]
    loss = loss_of(variant, inputs, "reference" if sizes[0] + sizes[1] <= DENSE_ROWS else "torch")
    return loss.detach(), list(torch.autograd.grad(loss, inputs))
