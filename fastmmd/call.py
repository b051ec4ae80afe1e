"""What a backend is asked to compute, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.dtypes import compute_dtype
from fastmmd.problem import Problem


class Form(NamedTuple):
    """Weights of pairs that depend on the rows (docs/mathematics.md): pair (i, j) has the weight ``W_i A W_j^T``, and
    what is computed is ``tr(A W^T K W)``.

    w: ``[N, P]`` in the computing dtype, the sources' rows first.
    a: ``[P, P]``, symmetric, or ``[P]``, the diagonal of such a one, in the accumulation dtype. None: no loss and no
        gradients are computed, but rows alone.
    needs_rows: whether ``K W`` is wanted (`Result.rows`).
    """

    w: Tensor
    a: Tensor | None
    needs_rows: bool

    def times_a(self, rows: Tensor) -> Tensor:
        """``rows A`` for rows ``[N, P]``, in their dtype: with ``rows = W``, pair (i, j) has weight ``W_i (W A)_j``."""
        assert self.a is not None
        if self.a.dim() == 1:
            return rows * self.a.to(rows.dtype)
        return (rows.to(self.a.dtype) @ self.a).to(rows.dtype)  # never in TF32, which would round the weights


class Call(NamedTuple):
    """One evaluation of the primitive (fastmmd/problem.py): static data, tensors, and what is wanted of them.

    problem: the static data.
    sources: one ``[n_source, d_l]`` tensor per layer, fp16, bf16, fp32 or fp64, all on one device; never written.
    targets: one ``[n_target, d_l]`` tensor per layer, likewise; n_target may be 0 where there is a form.
    bandwidths: ``[L]`` on that device in the accumulation dtype (fp64; fp32 where it has no fp64), read where a layer's
        bandwidth does not follow the mean; None stands for ones.
    needs_grad: 2 L flags, sources first.
    precision: the least precise format that fp32 matrix products may use, ``"ieee"``, ``"tf32x3"``, ``"tf32"`` or
        ``"bf16"``; None: what torch's own setting allows.
    form: the weights of pairs, where the problem is `weighted`; None: they depend on the domains alone.
    """

    problem: Problem
    sources: Sequence[Tensor]
    targets: Sequence[Tensor]
    bandwidths: Tensor | None
    needs_grad: Sequence[bool]
    precision: str | None = None
    form: Form | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.sources, *self.targets)

    @property
    def device(self) -> torch.device:
        return self.sources[0].device

    @property
    def dims(self) -> tuple[int, ...]:
        """Features per layer."""
        return tuple([x.shape[1] for x in self.sources])

    @property
    def dtype(self) -> torch.dtype:
        """The computing dtype: fp64 if any input has it, else fp32."""
        return compute_dtype(*self.sources, *self.targets)

    @property
    def form_columns(self) -> int:
        """P of the form; 0 for a plain call."""
        return 0 if self.form is None else self.form.w.shape[1]

    @property
    def layer_needs_grad(self) -> tuple[bool, ...]:
        """Per layer: whether either side needs a gradient."""
        layers = len(self.sources)
        sides = zip(self.needs_grad[:layers], self.needs_grad[layers:], strict=True)
        return tuple([source or target for source, target in sides])


class Result(NamedTuple):
    """A backend's answer, all in the call's computing dtype.

    loss: 0-d.
    statistics: ``[1 + 2 L]``: the joint value, the value of each layer, the bandwidth of each layer.
    gradients: 2 L tensors shaped like the inputs, sources first; None where not needed.
    rows: ``[N, P]``, ``K W`` without the diagonal of K, where K is that of the loss, joint and marginal terms together;
        None where there is no form that needs them.
    """

    loss: Tensor
    statistics: Tensor
    gradients: list[Tensor | None]
    rows: Tensor | None = None


class Evaluation(NamedTuple):
    """loss: 0-d, differentiable. statistics, rows: as those of `Result`, detached."""

    loss: Tensor
    statistics: Tensor
    rows: Tensor | None = None
