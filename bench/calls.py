"""The loss of a case as a call of one named backend, which may be handed a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case, Loss
from bench.forms import Groups
from fastmmd import autograd
from fastmmd.call import Call, Form
from fastmmd.problem import Objective


def call_of(case: Case, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Call:
    """The call that `fastmmd.discrepancy` would make: with gradients of those inputs that require them, where they are
    recorded. The bandwidths of cases are means and numbers, which every backend computes by itself."""
    kernels = tuple([kernel.static for kernel in case.kernels])
    form = None
    if (matrices := case.matrices(sources[0].device)) is not None:
        form = Form(matrices[0].to(sources[0].dtype), matrices[1], needs_rows=isinstance(case.form, Groups))
        targets = targets or [source.detach()[:0] for source in sources]
    objective = Objective(kernels, case.joint, case.marginals, "biased", weighted=form is not None)
    recorded = torch.is_grad_enabled()
    return Call(
        problem=objective.problem(case.n_source, case.n_target),
        sources=sources,
        targets=targets,
        bandwidths=None,
        needs_grad=[recorded and x.requires_grad for x in (*sources, *targets)],
        precision=case.precision,
        form=form,
    )


def loss_of(case: Case, backend: str, config: Any = None) -> Loss:
    """The loss of a case, computed by a backend as its config says; None: as its launch rules do."""

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return autograd.evaluate(call_of(case, sources, targets), backend, config).loss

    return loss
