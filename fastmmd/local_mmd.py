"""Local MMD: domains compared class by class (DSAN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd import checks, linear_time
from fastmmd.call import Form
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.evaluation import FormMaker, evaluate
from fastmmd.functional import Discrepancy
from fastmmd.gaussian import Gaussian
from fastmmd.transforms import readable


def lmmd(
    source: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    source_labels: Tensor,
    target_probabilities: Tensor,
    kernel: Gaussian | Sequence[Gaussian] = Gaussian(),  # noqa: B008  (it is immutable)
    *,
    joint: float = 1.0,
    marginal: float | Sequence[float] = 0.0,
    estimator: str = "biased",
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """The local MMD of deep subdomain adaptation (DSAN; Zhu et al., IEEE TNNLS 32, 2021): the mean over classes
    of the squared MMD between the source's rows of a class and the target's, each weighted by its probability of it.

    The mean is over the classes that occur both among the labels and among the most probable classes of the target's
    rows, as in the authors' code; without any the loss is 0. Labels and probabilities count as constants, as there. The
    factor by which DSAN lets the loss grow is the trainer's.

    Args:
        source: ``[n_s, d]``, or one ``[n_s, d_l]`` tensor per layer (1 to 8 layers), fp16, bf16, fp32 or fp64.
        target: ``[n_t, d]``, or likewise; n_t may differ from n_s.
        source_labels: ``[n_s]``, integers in 0 .. C - 1.
        target_probabilities: ``[n_t, C]``, non-negative, rows that add up to 1: softmax outputs.
        kernel: the `Gaussian`, or one per layer.
        joint, marginal, estimator, backend, precision: as those of `fastmmd.discrepancy`. "unbiased" leaves out classes
            with a single row in either domain; "linear" and "circular" are not defined.

    Returns:
        0-d, in fp32 (fp64 if any layer is fp64).

    Raises:
        ValueError, TypeError, RuntimeError: as `fastmmd.discrepancy`.

    Example:
        >>> import torch, fastmmd
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> labels, probabilities = torch.tensor([0, 0, 1, 1]), torch.eye(2)[[0, 0, 1, 1]]
        >>> fastmmd.lmmd(x, x + 1, labels, probabilities, fastmmd.Gaussian(1.0, (1,)))
        tensor(0.4908)
    """
    return local_discrepancy(
        source,
        target,
        source_labels,
        target_probabilities,
        kernel,
        joint=joint,
        marginal=marginal,
        estimator=estimator,
        backend=backend,
        precision=precision,
    ).loss


def local_discrepancy(
    source: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    source_labels: Tensor,
    target_probabilities: Tensor,
    kernel: Gaussian | Sequence[Gaussian],
    *,
    joint: float,
    marginal: float | Sequence[float],
    estimator: str,
    backend: str,
    precision: str | None,
) -> Discrepancy:
    """`lmmd` with its terms and bandwidths: the local MMDs of all layers together and of each."""
    sources, targets = _layers(source), _layers(target)
    kernels = checks.check_kernel(kernel) if isinstance(kernel, Gaussian) else kernel
    loss, statistics, _ = evaluate(
        sources,
        targets,
        kernels,
        joint=joint,
        marginal=marginal,
        estimator=estimator,
        backend=backend,
        precision=precision,
        make_form=_form_maker(source_labels, target_probabilities),
    )
    layers = len(sources)
    return Discrepancy(loss, statistics[0], statistics[1 : 1 + layers], statistics[1 + layers :])


def _layers(x: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (x,) if isinstance(x, Tensor) else x


def _form_maker(labels: Tensor, probabilities: Tensor) -> FormMaker:
    def make_form(sources: Sequence[Tensor], targets: Sequence[Tensor], estimator: str) -> Form:
        if estimator in linear_time.ESTIMATORS:
            raise ValueError(f"estimator: the local MMD is 'biased' or 'unbiased', got {estimator!r}")
        checks.check_labels("source_labels", labels, sources[0])
        checks.check_probabilities("target_probabilities", probabilities, targets[0])
        classes = probabilities.shape[1]
        if readable(labels):
            checks.check_range_of_labels("source_labels", labels, classes)
        if readable(probabilities):
            checks.check_values_of_probabilities("target_probabilities", probabilities)
        w, a = _class_weights(labels, probabilities.detach(), estimator)
        return Form(w.to(compute_dtype(*sources, *targets)), a, needs_rows=False)

    return make_form


def _class_weights(labels: Tensor, probabilities: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """W and A. No size depends on which classes occur, so nothing waits for a device.

    "biased": a column per class, the source's weights minus the target's. "unbiased", whose sums inside a domain have
    denominators of their own: a column per class and domain.
    """
    dtype = accumulation_dtype(labels.device)
    every = torch.arange(probabilities.shape[1], device=labels.device)
    source = (labels[:, None] == every).to(dtype)
    target = probabilities.to(dtype)
    predicted = probabilities.argmax(1)[:, None] == every
    present = source.any(0) & predicted.any(0) & (target.sum(0) > 0)
    source, target = _normalised(source), _normalised(target)
    if estimator == "biased":
        return torch.cat([source, -target]), present.to(dtype) / present.sum().clamp(min=1)
    # Without its diagonal a sum over the pairs of a class is over weights that add up to 1 - sum w^2.
    pairs = [(side * (1 - side)).sum(0) for side in (source, target)]
    present = present & (pairs[0] > 0) & (pairs[1] > 0)
    share = present.to(dtype) / present.sum().clamp(min=1)
    within = [torch.where(present, share / pair, 0) for pair in pairs]
    w = torch.block_diag(source, target)
    cross = torch.diag(-share)
    return w, torch.cat([torch.cat([torch.diag(within[0]), cross]), torch.cat([cross, torch.diag(within[1])])], 1)


def _normalised(weights: Tensor) -> Tensor:
    """Columns that add up to 1; those of zeros stay."""
    totals = weights.sum(0)
    return weights / torch.where(totals == 0, 1, totals)
