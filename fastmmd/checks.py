"""Argument checks. Messages name the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fastmmd.gaussian import Gaussian
from fastmmd.linear_time import ESTIMATORS as LINEAR_TIME
from fastmmd.problem import MAX_LAYERS
from fastmmd.transforms import is_batched, readable

ESTIMATORS = ("biased", "unbiased", *LINEAR_TIME)
PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_not_traced() -> None:
    if torch.jit.is_tracing():
        raise RuntimeError(
            "fastmmd: torch.jit.trace can't look into the kernels and would record memory that nobody wrote; use "
            "torch.compile or torch.export"
        )


def check_layers(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for name, layers in (("sources", sources), ("targets", targets)):
        if isinstance(layers, Tensor) or not isinstance(layers, Sequence):
            raise TypeError(
                f"{name}: expected a sequence of [n, d] tensors, one per layer, got {type(layers).__name__}"
            )
    if not 1 <= len(sources) <= MAX_LAYERS:
        raise ValueError(f"sources: expected 1 to {MAX_LAYERS} layers, got {len(sources)}")
    if len(targets) != len(sources):
        raise ValueError(f"targets: expected {len(sources)} layers, as many as sources, got {len(targets)}")
    dims = _check_side("sources", sources)
    for index, (expected, dim) in enumerate(zip(dims, _check_side("targets", targets), strict=True)):
        if dim != expected:
            raise ValueError(f"targets[{index}]: expected {expected} features, as in sources[{index}], got {dim}")
    if sources[0].device != targets[0].device:
        raise ValueError(f"targets[0]: expected a tensor on {sources[0].device}, got one on {targets[0].device}")


def check_pooled_layers(layers: Sequence[Tensor]) -> None:
    """Layers whose rows are not divided in two."""
    if isinstance(layers, Tensor) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a sequence of [N, d] tensors, one per layer, got {type(layers).__name__}")
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ValueError(f"layers: expected 1 to {MAX_LAYERS}, got {len(layers)}")
    _check_side("layers", layers)
    if layers[0].shape[0] < 2:
        raise ValueError(f"layers: expected at least 2 rows, got {layers[0].shape[0]}")


def _check_side(name: str, layers: Sequence[Tensor]) -> list[int]:
    """Features per layer."""
    dims = []
    for index, layer in enumerate(layers):
        if not isinstance(layer, Tensor):
            raise TypeError(f"{name}[{index}]: expected a tensor, got {type(layer).__name__}")
        shape = layer.shape
        if len(shape) != 2:
            raise ValueError(f"{name}[{index}]: expected shape [n, d], got {tuple(shape)}")
        if layer.layout != torch.strided:
            raise TypeError(f"{name}[{index}]: expected a dense tensor, got layout {layer.layout}")
        if layer.dtype not in DTYPES:
            raise TypeError(f"{name}[{index}]: expected float16, bfloat16, float32 or float64, got {layer.dtype}")
        rows, dim = shape
        if rows == 0 or dim == 0:
            raise ValueError(f"{name}[{index}]: expected at least one row and one feature, got shape {tuple(shape)}")
        if index == 0:
            first_rows, device = rows, layer.device
        elif rows != first_rows:
            raise ValueError(f"{name}[{index}]: expected {first_rows} rows, as in the first layer, got {rows}")
        elif layer.device != device:
            raise ValueError(
                f"{name}[{index}]: expected a tensor on {device}, as the first layer, got one on {layer.device}"
            )
        dims.append(dim)
    return dims


def check_kernels(kernels: object, num_layers: int | None = None) -> tuple[Gaussian, ...]:
    if isinstance(kernels, Gaussian) or not isinstance(kernels, Sequence):
        raise TypeError(
            f"kernels: expected a sequence of fastmmd.Gaussian, one per layer, got {type(kernels).__name__}"
        )
    for index, kernel in enumerate(kernels):
        if not isinstance(kernel, Gaussian):
            raise TypeError(f"kernels[{index}]: expected a fastmmd.Gaussian, got {type(kernel).__name__}")
    if num_layers is None and not 1 <= len(kernels) <= MAX_LAYERS:
        raise ValueError(f"kernels: expected 1 to {MAX_LAYERS}, one per layer, got {len(kernels)}")
    if num_layers is not None and len(kernels) != num_layers:
        raise ValueError(f"kernels: expected {num_layers}, one per layer, got {len(kernels)}")
    return tuple(kernels)


def check_kernel(kernel: object) -> tuple[Gaussian, ...]:
    if not isinstance(kernel, Gaussian):
        raise TypeError(f"kernel: expected a fastmmd.Gaussian, got {type(kernel).__name__}")
    return (kernel,)


def check_devices_of_weights(kernels: Sequence[Gaussian], device: torch.device) -> None:
    for kernel in kernels:
        if isinstance(kernel.weights, Tensor) and kernel.weights.device != device:
            raise ValueError(f"weights: expected a tensor on {device}, got one on {kernel.weights.device}")


def check_form(w: object, rows: Tensor) -> None:
    """One row of W per row of the layers."""
    if not isinstance(w, Tensor):
        raise TypeError(f"w: expected a tensor, got {type(w).__name__}")
    if w.dim() != 2 or w.shape[0] != rows.shape[0] or w.shape[1] == 0 or not w.is_floating_point():
        raise ValueError(
            f"w: expected a floating-point tensor of shape [{rows.shape[0]}, P], one row per row of the layers, got "
            f"{w.dtype} {tuple(w.shape)}"
        )
    if w.device != rows.device:
        raise ValueError(f"w: expected a tensor on {rows.device}, got one on {w.device}")


def check_labels(name: str, labels: object, rows: Tensor) -> None:
    """One integer per row."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(labels).__name__}")
    if labels.shape != rows.shape[:1] or labels.dtype not in INTEGERS:
        raise ValueError(
            f"{name}: expected int64 (or int32, int16, int8, uint8) of shape ({rows.shape[0]},), one per row, got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    if labels.device != rows.device:
        raise ValueError(f"{name}: expected a tensor on {rows.device}, got one on {labels.device}")


def check_range_of_labels(name: str, labels: Tensor, count: int) -> None:
    smallest, largest = torch.stack(labels.aminmax()).tolist()
    if smallest < 0 or largest >= count:
        raise ValueError(f"{name}: expected integers in 0 .. {count - 1}, got {smallest if smallest < 0 else largest}")


def check_probabilities(name: str, probabilities: object, rows: Tensor) -> None:
    """One row of class probabilities per row."""
    if not isinstance(probabilities, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(probabilities).__name__}")
    shape = probabilities.shape
    if len(shape) != 2 or shape[0] != rows.shape[0] or shape[1] == 0 or not probabilities.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating-point tensor of shape [{rows.shape[0]}, classes], got {probabilities.dtype} "
            f"{tuple(shape)}"
        )
    if probabilities.device != rows.device:
        raise ValueError(f"{name}: expected a tensor on {rows.device}, got one on {probabilities.device}")


def check_values_of_probabilities(name: str, probabilities: Tensor) -> None:
    """Probabilities that can be read. NaN passes, and makes the loss NaN."""
    smallest = probabilities.detach().min().item()
    if smallest < 0:
        raise ValueError(f"{name}: expected non-negative numbers (softmax outputs, not logits), got {smallest}")


def check_groups(groups: Tensor, num_groups: int | None, pair_weights: object) -> int:
    """The number of groups, as it is given or as the largest one says."""
    if num_groups is not None:
        check_count("num_groups", num_groups)
    if pair_weights is not None:
        _check_pair_weights(pair_weights, num_groups, groups.device)
        assert isinstance(pair_weights, Tensor)
        num_groups = pair_weights.shape[0]
    if num_groups is None:
        if torch.compiler.is_compiling() or groups.is_meta or is_batched(groups):
            raise ValueError("num_groups: expected a number where groups can't be read (torch.compile, vmap, meta)")
        num_groups = max(0, int(groups.max())) + 1
    if readable(groups):
        check_range_of_labels("groups", groups, num_groups)
    return num_groups


def _check_pair_weights(weights: object, num_groups: int | None, device: torch.device) -> None:
    if not isinstance(weights, Tensor):
        raise TypeError(f"pair_weights: expected a tensor, got {type(weights).__name__}")
    count = "G" if num_groups is None else num_groups
    square = weights.dim() == 2 and weights.shape[0] == weights.shape[1] > 0
    if not square or not weights.is_floating_point() or num_groups not in (None, weights.shape[0]):
        raise ValueError(
            f"pair_weights: expected a floating-point tensor of shape [{count}, {count}], got {weights.dtype} "
            f"{tuple(weights.shape)}"
        )
    if weights.device != device:
        raise ValueError(f"pair_weights: expected a tensor on {device}, got one on {weights.device}")
    if readable(weights) and not torch.equal(weights, weights.T) and not weights.isnan().any():
        raise ValueError("pair_weights: expected a symmetric matrix")


def check_row_weights(name: str, weights: object, rows: Tensor) -> None:
    """One number per row."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(weights).__name__}")
    if weights.shape != rows.shape[:1] or not weights.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating-point tensor of shape ({rows.shape[0]},), one weight per row, got "
            f"{weights.dtype} {tuple(weights.shape)}"
        )
    if weights.device != rows.device:
        raise ValueError(f"{name}: expected a tensor on {rows.device}, got one on {weights.device}")


def check_values_of_row_weights(name: str, weights: Tensor, total: Tensor, estimator: str) -> None:
    """Weights that can be read: non-negative, with a positive and finite sum, of several rows if "unbiased". NaN
    passes, and makes the loss NaN."""
    smallest, sum_of_weights = weights.detach().amin().item(), total.item()
    if smallest < 0:
        raise ValueError(f"{name}: expected non-negative numbers, got {smallest}")
    if sum_of_weights == 0 or sum_of_weights == math.inf:
        raise ValueError(f"{name}: expected numbers with a positive, finite sum, got the sum {sum_of_weights}")
    if estimator == "unbiased" and weights.detach().amax().item() == sum_of_weights:
        raise ValueError(f"{name}: estimator 'unbiased' needs at least 2 rows of positive weight, got 1")


def check_options(estimator: object, precision: object) -> None:
    check_choice("estimator", estimator, ESTIMATORS)
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)


def check_weights(joint: float, marginal: float | Sequence[float], num_layers: int) -> tuple[float, tuple[float, ...]]:
    weights: Sequence[Any]
    if isinstance(marginal, (float, Real)):
        weights = [marginal] * num_layers
    elif isinstance(marginal, Sequence) and not isinstance(marginal, str):
        weights = marginal
    else:
        raise TypeError(f"marginal: expected a number or a sequence of numbers, got {type(marginal).__name__}")
    if len(weights) != num_layers:
        raise ValueError(f"marginal: expected a number or {num_layers} numbers, one per layer, got {len(weights)}")
    marginals = tuple([_check_weight("marginal", weight) for weight in weights])
    return _check_weight("joint", joint), marginals


def _check_weight(name: str, weight: Any) -> float:
    if type(weight) is not float:  # the usual case first: asking an abstract class takes a microsecond
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise TypeError(f"{name}: expected a number, got {type(weight).__name__}")
        weight = float(weight)
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {weight}")
    return weight


def check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {tuple(choices)}, got {value!r}")


def check_sizes(estimator: str, n_source: int, n_target: int) -> None:
    if estimator == "unbiased":
        for name, n in (("sources", n_source), ("targets", n_target)):
            if n < 2:
                raise ValueError(f"{name}: estimator 'unbiased' needs at least 2 rows, got {n}")
    elif estimator in LINEAR_TIME:
        if n_source != n_target:
            raise ValueError(
                f"targets: estimator {estimator!r} needs as many rows as sources ({n_source}), got {n_target}"
            )
        if n_source < 2:
            raise ValueError(f"sources: estimator {estimator!r} needs at least 2 rows, got {n_source}")
