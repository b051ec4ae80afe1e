"""Argument checks. Messages name the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
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


def _tensor(name: str, value: object, device: torch.device) -> Tensor:
    """A dense tensor on the device of the layers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")
    if value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")
    return value


def _check_matrix(name: str, value: object, rows: Tensor, columns: str) -> None:
    """One row of floating-point numbers per row of the layers."""
    matrix = _tensor(name, value, rows.device)
    shape = matrix.shape
    if len(shape) != 2 or shape[0] != rows.shape[0] or shape[1] == 0 or not matrix.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating-point tensor of shape [{rows.shape[0]}, {columns}], one row per row of the "
            f"layers, got {matrix.dtype} {tuple(shape)}"
        )


def check_form(w: object, rows: Tensor) -> None:
    _check_matrix("w", w, rows, "P")


def check_probabilities(name: str, probabilities: object, rows: Tensor) -> None:
    _check_matrix(name, probabilities, rows, "classes")


def check_values_of_probabilities(name: str, probabilities: Tensor) -> None:
    """Probabilities that can be read. NaN passes, and makes the loss NaN."""
    smallest = probabilities.detach().min().item()
    if smallest < 0:
        raise ValueError(f"{name}: expected non-negative numbers (softmax outputs, not logits), got {smallest}")


def check_labels(name: str, labels: object, rows: Tensor) -> None:
    """One integer per row."""
    labels = _tensor(name, labels, rows.device)
    if labels.shape != rows.shape[:1] or labels.dtype not in INTEGERS:
        raise ValueError(
            f"{name}: expected int64 (or int32, int16, int8, uint8) of shape ({rows.shape[0]},), one per row, got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )


def check_range_of_labels(name: str, labels: Tensor, count: int) -> None:
    smallest, largest = torch.stack(labels.aminmax()).tolist()
    if smallest < 0 or largest >= count:
        raise ValueError(f"{name}: expected integers in 0 .. {count - 1}, got {smallest if smallest < 0 else largest}")


def check_groups(groups: Tensor, num_groups: int | None, pair_weights: object) -> int:
    """The number of groups, as it is given or as the largest one says."""
    if num_groups is not None:
        num_groups = check_count("num_groups", num_groups)
    if pair_weights is not None:
        num_groups = _check_pair_weights(pair_weights, num_groups, groups.device)
    if num_groups is None:
        if torch.compiler.is_compiling() or groups.is_meta or is_batched(groups):
            raise ValueError("num_groups: expected a number where groups can't be read (torch.compile, vmap, meta)")
        largest, rows = int(groups.max()), groups.shape[0]
        if largest >= rows:  # [G, G] values of labels that are no numbers of groups would take all memory
            raise ValueError(
                f"groups: expected integers below {rows}, the number of rows, or num_groups, got {largest}"
            )
        num_groups = max(0, largest) + 1
    if readable(groups):
        check_range_of_labels("groups", groups, num_groups)
    return num_groups


def _check_pair_weights(value: object, num_groups: int | None, device: torch.device) -> int:
    """The number of groups of weights that are symmetric, but for round-off."""
    weights = _tensor("pair_weights", value, device)
    count = "G" if num_groups is None else num_groups
    square = weights.dim() == 2 and weights.shape[0] == weights.shape[1] > 0
    if not square or not weights.is_floating_point() or num_groups not in (None, weights.shape[0]):
        raise ValueError(
            f"pair_weights: expected a floating-point tensor of shape [{count}, {count}], got {weights.dtype} "
            f"{tuple(weights.shape)}"
        )
    if readable(weights):
        given = weights.detach()
        size = given.abs().amax().item()
        if size < math.inf and (given - given.T).abs().amax().item() > 16 * torch.finfo(given.dtype).eps * size:
            raise ValueError("pair_weights: expected a symmetric matrix")
    return weights.shape[0]


def check_row_weights(name: str, value: object, rows: Tensor) -> Tensor:
    """One number per row."""
    weights = _tensor(name, value, rows.device)
    if weights.shape != rows.shape[:1] or not weights.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating-point tensor of shape ({rows.shape[0]},), one weight per row, got "
            f"{weights.dtype} {tuple(weights.shape)}"
        )
    return weights


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


def check_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)


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
