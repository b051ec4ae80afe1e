"""What bench/values.py computes: each route with each product format, dtype of the inputs and size, against fp64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import routes
from bench.calls import loss_of
from bench.cases import JAN, Case, Loss
from bench.gate import reference

WEIGHTS = (0.3, 0.1)  # of the marginal terms, beside the joint one
CONFIG_SIZES = ((33, 70, (70, 8)), (1, 2, (70, 8)), (257, 31, (70, 8)))
RULE_SIZES = (
    (64, 60, (256, 31)),
    (36, 36, (256, 31)),
    (2100, 2050, (256, 8)),
    (300, 1000, (2048, 8)),
    (31, 1, (37, 5)),
)
KINDS = (  # product format asked for, dtype of the inputs; the usual ones first
    ("ieee", torch.float32),
    ("tf32x3", torch.float32),
    ("tf32", torch.float32),
    ("bf16", torch.float32),
    ("ieee", torch.bfloat16),
    ("tf32", torch.float16),
    ("ieee", torch.float64),
    ("bf16", torch.bfloat16),
    ("ieee", torch.float16),
    ("tf32", torch.bfloat16),
    ("tf32x3", torch.bfloat16),
    ("bf16", torch.float16),
    ("tf32x3", torch.float16),
)
# Errors of the loss (times the size of a kernel) and of the gradients.
ALLOWED = {"ieee": 5e-6, "tf32x3": 1e-5, "tf32": 4e-3, "bf16": 3e-2}
ALLOWED_FP64 = 1e-11
ROUNDING = {torch.bfloat16: 6e-3, torch.float16: 1e-3}  # of gradients, which are returned in the dtype of the inputs


class Variant(NamedTuple):
    """One value to compute.

    route: a name of `routes.names`.
    sizes: rows of source and target, features of each layer.
    """

    route: str
    precision: str
    dtype: torch.dtype
    sizes: tuple[int, int, tuple[int, ...]]

    @property
    def case(self) -> Case:
        n, m, dims = self.sizes
        weights = WEIGHTS[: len(dims)]
        return Case("", n, m, dims, JAN[: len(dims)], joint=1.0, marginal=weights, precision=self.precision)

    def inputs(self, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Sources and targets in the variant's dtype, leaves that require gradients."""
        sources, targets = self.case.inputs(device)
        return _leaves(sources, self.dtype), _leaves(targets, self.dtype)

    @property
    def loss(self) -> Loss:
        return loss_of(self.case, routes.backend_of_name(self.route), routes.configs().get(self.route))

    @property
    def allowed(self) -> tuple[float, float]:
        """The errors that the loss and the gradients may have."""
        of_loss = ALLOWED_FP64 if self.dtype == torch.float64 else ALLOWED[self.precision]
        return of_loss, max(of_loss, ROUNDING.get(self.dtype, 0.0))

    def errors(self, device: torch.device) -> dict[str, Any]:
        return errors(self, self.loss, device)

    def described(self) -> dict[str, Any]:
        n, m, dims = self.sizes
        dtype = str(self.dtype).removeprefix("torch.")
        return {"route": self.route, "precision": self.precision, "dtype": dtype, "n": n, "m": m, "dims": dims}


def variants(route: str) -> list[Variant]:
    """What is computed of a route, the usual kinds first. Route "fused" has no fp64, and in CUDA no ieee."""
    return [
        Variant(route, precision, dtype, sizes)
        for precision, dtype in KINDS
        for sizes in (CONFIG_SIZES if route in routes.configs() else RULE_SIZES)
        if not ("fused" in route and dtype == torch.float64)
        if not (route.startswith("cuda-fused") and precision == "ieee")
    ]


def errors(variant: Variant, loss: Loss, device: torch.device) -> dict[str, Any]:
    """How far a loss is off that should be the variant's, and whether that is allowed."""
    sources, targets = variant.inputs(device)
    value = loss(sources, targets)
    scale = float(min(variant.sizes[:2]))  # as mixed-precision training scales losses, so that fp16 can hold gradients
    gradients = torch.autograd.grad(value, [*sources, *targets], torch.full_like(value, scale))
    with torch.no_grad():
        evaluated = loss(sources, targets)
    exact, exact_gradients = _exact(variant.sizes, variant.dtype, device)
    loss_error, evaluated_error = (abs(x.item() - exact.item()) for x in (value, evaluated))
    error = gradient_error([gradient.double() / scale for gradient in gradients], exact_gradients)
    allowed, allowed_gradient = variant.allowed
    return {
        "loss_error": loss_error,
        "loss_error_without_gradients": evaluated_error,
        "gradient_error": error,
        "allowed": [allowed, allowed_gradient],
        # A NaN is not.
        "right": loss_error <= allowed and evaluated_error <= allowed and error <= allowed_gradient,
    }


def gradient_error(gradients: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The norm of the error over that of the gradient, for the worst input."""
    pairs = zip(gradients, exact, strict=True)
    return max([((gradient.double() - truth).norm() / truth.norm()).item() for gradient, truth in pairs])


def _leaves(layers: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [x.detach().to(dtype).requires_grad_() for x in layers]


@cache
def _exact(
    sizes: tuple[int, int, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients in fp64, at inputs that are rounded to `dtype`."""
    variant = Variant("", "ieee", dtype, sizes)
    sources, targets = variant.inputs(device)
    return reference(variant.case, _leaves(sources, torch.float64), _leaves(targets, torch.float64), torch.float64)
