"""Losses of projects that are not on PyPI, restated: their formulas in operations of their kind and number.

DomainBed b93c22a1, DSAN 2969ed6c, scArches 88b19dce. tests/peers has the same formulas as oracles.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from bench.cases import Case, Loss
from bench.forms import Classes, Groups

DOMAINBED, DSAN, TRVAE = "DomainBed", "DSAN", "trVAE"
OTHER_LOSS = "computes another loss"


def domainbed(case: Case) -> Loss:
    """`MMD.update`'s penalty: the mean over pairs of domains; three kernel matrices per pair from Gram expansions of
    rows that are not centred."""
    form, (kernel,) = case.form, case.kernels
    assert isinstance(form, Groups)
    gammas = [1 / (multiplier * kernel.static.number) for multiplier in kernel.multipliers]

    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        norms_x, norms_y = x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        squared = (torch.addmm(norms_y.T, x, y.T, alpha=-2) + norms_x).clamp_min(1e-30)
        matrix = torch.zeros_like(squared)
        for gamma in gammas:
            matrix = matrix + torch.exp(squared * -gamma)
        return matrix.mean()

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        domains = sources[0].split(case.n // form.count)
        total = sources[0].new_zeros(())
        for x, y in combinations(domains, 2):
            total = total + mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
        return total / form.pairs

    return loss


def no_mean_of_groups(case: Case, device: torch.device) -> str | None:
    return None if isinstance(case.form, Groups) and not case.form.total else OTHER_LOSS


def trvae(case: Case) -> Loss:
    """scArches' `trvae.losses.mmd`: the sum over pairs of conditions, whose rows are looked up; three kernel matrices
    per pair from differences, all Gaussians of a matrix in one tensor."""
    form, (kernel,) = case.form, case.kernels
    assert isinstance(form, Groups)

    def mean_kernel(x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        squared = (x[:, :, None] - y.T).square().sum(1)
        return torch.exp(-(rates @ squared.reshape(1, -1))).sum(0).mean()

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        z = sources[0]
        rates = 1 / z.new_tensor(kernel.multipliers)[:, None] / kernel.static.number
        members = form.members(case.n, z.device)
        conditions = [z[torch.nonzero(members == c).squeeze(1)] for c in range(form.count)]
        total = z.new_zeros(())
        for x, y in combinations(conditions, 2):
            total = total + mean_kernel(x, x, rates) + mean_kernel(y, y, rates) - 2 * mean_kernel(x, y, rates)
        return total

    return loss


def no_sum_of_groups(case: Case, device: torch.device) -> str | None:
    return None if isinstance(case.form, Groups) and case.form.total else OTHER_LOSS


def dsan(case: Case) -> Loss:
    """`LMMD_loss.get_loss`: weights of pairs by numpy on the CPU, distances through an N x N x d tensor."""
    form, (kernel,) = case.form, case.kernels
    assert isinstance(form, Classes)

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        (x,), (y,) = sources, targets
        n = len(x)
        weights = _dsan_weights(form.labels(n, x.device), form.probabilities(len(y), x.device))
        ss, tt, st = (torch.from_numpy(w).to(x.device) for w in weights)
        z = torch.cat([x, y])
        total = len(z)
        rows, columns = z[None].expand(total, total, -1), z[:, None].expand(total, total, -1)
        squared = (rows - columns).square().sum(2)
        bandwidth = squared.detach().sum() / (total**2 - total)
        matrix = sum(torch.exp(-squared / (multiplier * bandwidth)) for multiplier in kernel.multipliers)
        assert isinstance(matrix, Tensor)  # a mixture has a Gaussian
        if matrix.isnan().any():
            return z.new_zeros(())
        return (ss * matrix[:n, :n] + tt * matrix[n:, n:] - 2 * st * matrix[:n, n:]).sum()

    return loss


def _dsan_weights(labels: Tensor, probabilities: Tensor) -> list[np.ndarray]:
    """``[n, n]`` of source-source, target-target and source-target pairs."""
    classes = probabilities.shape[1]
    source_classes = labels.cpu().numpy()
    source = np.eye(classes)[source_classes]
    target_classes, target = probabilities.cpu().argmax(1).numpy(), probabilities.cpu().numpy()
    present = sorted(set(source_classes.tolist()) & set(target_classes.tolist()))
    sides = []
    for side in (source, target):
        totals = side.sum(0)
        totals[totals == 0] = 1
        masked = np.zeros_like(side)
        masked[:, present] = (side / totals)[:, present]
        sides.append(masked)
    source, target = sides
    products = (source @ source.T, target @ target.T, source @ target.T)
    return [(product / len(present)).astype(np.float32) for product in products]


def no_classes(case: Case, device: torch.device) -> str | None:
    return None if isinstance(case.form, Classes) and case.n_source == case.n_target else OTHER_LOSS
