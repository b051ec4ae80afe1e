"""One small loss per function whose pairs have weights of their own, for tests of what holds of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian
from tests.helpers import layers

KERNEL = Gaussian(2.0, (0.5, 1, 3))
MEAN = Gaussian()


class FormCall(NamedTuple):
    """loss: 0-d, from rows ``[N, d]``, the other variable and the keyword ``backend``. other: that variable for N rows
    in a dtype, a leaf."""

    loss: Callable[..., Tensor]
    other: Callable[[int, torch.dtype], Tensor]

    def inputs(self, n: int = 12, dim: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [*layers(n, (dim,), seed, dtype=dtype), self.other(n, dtype)]


def _uneven(*shape: int, dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    return (1.5 + torch.arange(count, dtype=torch.float64).view(shape).sin()).to(dtype).requires_grad_()


def _row_weights(n: int, dtype: torch.dtype) -> Tensor:
    return _uneven(n, dtype=dtype)


def _bandwidth(n: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor(2.0, dtype=dtype, requires_grad=True)


def _pair_weights(n: int, dtype: torch.dtype) -> Tensor:
    return _uneven(3, 3, dtype=dtype)


def _columns(n: int, dtype: torch.dtype) -> Tensor:
    return _uneven(n, 2, dtype=dtype)


def _sample_weights(x: Tensor, weights: Tensor, *, backend: str = "auto") -> Tensor:
    half = len(x) // 2
    return fastmmd.mmd(
        x[:half], x[half:], MEAN, source_weights=weights[:half], target_weights=weights[half:], backend=backend
    )


def _unbiased_sample_weights(x: Tensor, weights: Tensor, *, backend: str = "auto") -> Tensor:
    half, both = len(x) // 2, (x, x[:, :2] * x.new_tensor([1.0, -0.5]))
    return fastmmd.discrepancy(
        [z[:half] for z in both],
        [z[half:] for z in both],
        [Gaussian(detach_bandwidth=False), KERNEL],
        marginal=(0.3, 0.0),
        estimator="unbiased",
        source_weights=weights[:half],
        backend=backend,
    ).loss + (weights[half:].square().sum())


def _local_mmd(x: Tensor, bandwidth: Tensor, *, backend: str = "auto", estimator: str = "biased") -> Tensor:
    half = len(x) // 2
    labels = torch.arange(half, device=x.device) % 3
    classes = torch.arange(3, device=x.device)
    probabilities = (torch.arange(len(x) - half, device=x.device)[:, None] * (classes + 1)).sin().softmax(1)
    return fastmmd.lmmd(
        x[:half], x[half:], labels, probabilities, Gaussian(bandwidth, (1, 2)), estimator=estimator, backend=backend
    )


def _unbiased_local_mmd(x: Tensor, bandwidth: Tensor, *, backend: str = "auto") -> Tensor:
    return _local_mmd(x, bandwidth, backend=backend, estimator="unbiased")


def _pairwise(x: Tensor, half: Tensor, *, backend: str = "auto") -> Tensor:
    groups = torch.arange(len(x), device=x.device) % 3
    return fastmmd.pairwise_mmd([x], groups, [MEAN], pair_weights=half + half.T, backend=backend).loss


def _forms(x: Tensor, w: Tensor, *, backend: str = "auto", diagonal: bool = True) -> Tensor:
    first, second = fastmmd.kernel_forms([x], [KERNEL], w, diagonal=diagonal, backend=backend)
    return first - 0.5 * second


def _forms_without_diagonal(x: Tensor, w: Tensor, *, backend: str = "auto") -> Tensor:
    return _forms(x, w, backend=backend, diagonal=False)


FORM_CALLS = {
    "sample weights": FormCall(_sample_weights, _row_weights),
    "unbiased sample weights": FormCall(_unbiased_sample_weights, _row_weights),
    "local MMD": FormCall(_local_mmd, _bandwidth),
    "unbiased local MMD": FormCall(_unbiased_local_mmd, _bandwidth),
    "pairs of groups": FormCall(_pairwise, _pair_weights),
    "forms": FormCall(_forms, _columns),
    "forms without diagonal": FormCall(_forms_without_diagonal, _columns),
}
