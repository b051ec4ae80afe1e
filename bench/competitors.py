"""Who is measured: fastmmd's backends, the loss as the field writes it, good versions in torch, and peers if installed.

All compute the loss of a `Case` from ``(sources, targets)``, as a 0-d tensor that autograd differentiates. The dense
ones are written here from the formulas, the blocked one in `blocked`. Bandwidths are constants for the gradient, as
everywhere in the field.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench import blocked, keops
from bench.calls import call_of
from bench.cases import Case, Loss
from bench.yardsticks import ReadyGradients
from fastmmd import Gaussian, discrepancy, dispatch, jmmd, mmd
from fastmmd.bandwidth import mean_distance
from fastmmd.call import Call

FASTMMD, TWO_CALLS, NAIVE = "fastmmd", "two calls", "naive broadcast"
DENSE, BLOCKED, COMPILED = "Gram dense", "Gram blocked", "Gram compiled"
NEEDS = "dense form needs"


@dataclass(frozen=True)
class Competitor:
    """Someone who computes the loss of a case.

    make: the loss of a case.
    refuses: why it can't take part; None: it can.
    needs: bytes at the peak of a dense form, estimated.
    estimator: what it computes, where that is not the V-statistic.
    leniency: how many times the usual error it may make and still be worth a comparison.
    capturable: a CUDA graph can hold it (it reads nothing back).
    """

    name: str
    make: Callable[[Case], Loss]
    refuses: Callable[[Case, torch.device], str | None] = lambda case, device: None
    needs: Callable[[Case], float] = lambda case: 0.0
    estimator: str = "biased"
    leniency: float = 1.0
    capturable: bool = True

    def absent(self, case: Case, device: torch.device, budget_bytes: float) -> str | None:
        """Why it is not measured on this case; None if it is."""
        refusal = self.refuses(case, device)
        if refusal is None and self.needs(case) > budget_bytes:
            return f"{NEEDS} {self.needs(case) / 2**30:,.0f} GiB"
        return refusal


def line_up(backends: Sequence[str] = ("auto",)) -> tuple[Competitor, ...]:
    """Everyone. backends: fastmmd's; a named one is left out where "auto" is measured too and takes it."""
    named = [
        Competitor(
            name=FASTMMD if backend == "auto" else f"{FASTMMD}/{backend}",
            make=partial(_fastmmd, backend=backend),
            refuses=partial(_backend_refuses, backend, "auto" in backends),
            needs=_naive_bytes if backend == "reference" else lambda case: 0.0,
        )
        for backend in backends
    ]
    return (
        *named,
        Competitor(name=TWO_CALLS, make=_two_calls, refuses=_one_term),
        Competitor(name=NAIVE, make=partial(_dense, distances=_broadcast_distances), needs=_naive_bytes),
        Competitor(name=DENSE, make=partial(_dense, distances=_gram_distances), needs=_gram_bytes),
        # The error of its gradient grows with N: 3.7e-6 at N = 32768, 9e-7 at N = 8192.
        Competitor(name=BLOCKED, make=_blocked, leniency=4, capturable=False),
        # The error of its gradient grows faster with N than the eager version's: 7e-6 against 1e-6 at N = 8192.
        Competitor(name=COMPILED, make=_compiled, refuses=_no_compiler, needs=_gram_bytes, leniency=8),
        Competitor(
            name="pytorch-adapt",
            make=_pytorch_adapt,
            refuses=partial(_no_peer, "pytorch_adapt"),
            needs=_peer_bytes,
            estimator="unbiased",
            capturable=False,
        ),
        Competitor(
            name="geomloss",
            make=_geomloss,
            refuses=partial(_no_peer, "geomloss"),
            needs=_peer_bytes,
            capturable=False,
        ),
        Competitor(name=keops.NAME, make=keops.KeOps, refuses=keops.refuses, leniency=4, capturable=False),
    )


# fastmmd ------------------------------------------------------------------------------------------------------------


def _fastmmd(case: Case, backend: str) -> Loss:
    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return discrepancy(
            sources,
            targets,
            case.kernels,
            joint=case.joint,
            marginal=case.marginals,
            backend=backend,
            precision=case.precision,
        ).loss

    return loss


def automatic(case: Case, device: torch.device) -> str:
    """The backend that "auto" takes for a case."""
    return dispatch.choose("auto", _call_of_zeros(case, device))


def _call_of_zeros(case: Case, device: torch.device) -> Call:
    """A call of a case's sizes, whose tensors are expanded, so that no memory is taken."""
    zero = torch.zeros((), device=device)
    sources = [zero.expand(case.n_source, d) for d in case.dims]
    targets = [zero.expand(case.n_target, d) for d in case.dims]
    return call_of(case, sources, targets)


def _backend_refuses(name: str, beside_auto: bool, case: Case, device: torch.device) -> str | None:
    if name == "auto":
        return None
    reason = dispatch.refusal(name, _call_of_zeros(case, device))
    if reason is None and beside_auto and automatic(case, device) == name:
        return f"it is what {FASTMMD} takes by itself"
    return reason


def _two_calls(case: Case) -> Loss:
    """The same terms from one call per term: what the single pass saves."""

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        total = case.joint * jmmd(sources, targets, case.kernels, precision=case.precision)
        for weight, source, target, kernel in zip(case.marginals, sources, targets, case.kernels, strict=True):
            if weight:
                total = total + weight * mmd(source, target, kernel, precision=case.precision)
        return total

    return loss


def _one_term(case: Case, device: torch.device) -> str | None:
    return None if any(case.marginals) else "the loss has a single term"


# Plain torch --------------------------------------------------------------------------------------------------------


def _dense(case: Case, distances: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Loss:
    """The whole loss from N x N matrices; `distances` is what the two versions differ in."""

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        signs = torch.cat([_full(sources[0], 1 / case.n_source), _full(targets[0], -1 / case.n_target)])
        product: Tensor | None = None
        total: Tensor | float = 0.0
        for source, target, kernel, weight in zip(sources, targets, case.kernels, case.marginals, strict=True):
            squared, mean = distances(torch.cat([source, target]))
            matrix = _mixture(squared, kernel, mean if kernel.static.rule == "mean" else kernel.static.number)
            product = matrix if product is None else product * matrix
            if weight:
                total = total + weight * (signs @ matrix @ signs)
        assert product is not None  # a case has a layer
        return total + case.joint * (signs @ product @ signs)

    return loss


def _mixture(squared: Tensor, kernel: Gaussian, bandwidth: Tensor | float) -> Tensor:
    first, *others = [-1 / (m * bandwidth) for m in kernel.multipliers]
    matrix = torch.exp(squared * first)
    for rate in others:
        matrix = matrix + torch.exp(squared * rate)
    return matrix


def _full(rows: Tensor, value: float) -> Tensor:
    return rows.new_full((rows.shape[0],), value)


def _broadcast_distances(z: Tensor) -> tuple[Tensor, Tensor]:
    """``[N, N]`` squared distances and their mean over i != j, through an N x N x d tensor of differences: the way of
    the published DAN and JAN code and of most of its copies."""
    n, d = z.shape
    difference = z.unsqueeze(0).expand(n, n, d) - z.unsqueeze(1).expand(n, n, d)
    squared = difference.pow(2).sum(2)
    return squared, squared.detach().sum() / (n * n - n)


def _gram_distances(z: Tensor) -> tuple[Tensor, Tensor]:
    """The same through one matrix product of centred rows, with the mean in closed form."""
    z = z - z.detach().mean(0)
    norms = z.square().sum(1)
    squared = norms[:, None] + norms[None, :] - 2 * torch.mm(z, z.T)
    return squared, 2 * norms.detach().sum() / (z.shape[0] - 1)


def _naive_bytes(case: Case) -> float:
    """Each layer's differences, saved for backward, and three more of the widest layer while it is differentiated."""
    return 4 * case.n**2 * (sum(case.dims) + 3 * max(case.dims))


def _gram_bytes(case: Case) -> float:
    """Each Gaussian, two more matrices per layer (its sum, its distances' gradient), and one in flight."""
    return 4 * case.n**2 * (sum(len(kernel.multipliers) for kernel in case.kernels) + 2 * len(case.dims) + 1)


def _blocked(case: Case) -> Loss:
    """The gradient is computed with the loss, where one is wanted; backward only scales it."""
    case = replace(case, copies=1)  # no profit from knowing that rows occur repeatedly

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        differentiate = torch.is_grad_enabled()
        with torch.no_grad():
            layers = blocked.centred(sources, targets)
            bandwidths = blocked.resolve_bandwidths(case, layers)
            value, gradients = blocked.discrepancy(case, layers, bandwidths, differentiate=differentiate)
        if not differentiate:
            return value
        n = case.n_source
        ready = [g[:n] for g in gradients] + [g[n:] for g in gradients]
        return ReadyGradients.apply(value, ready, *sources, *targets)

    return loss


def _compiled(case: Case) -> Loss:
    torch._dynamo.reset()  # one case's graphs do not count against the next one's recompile limit
    return torch.compile(_dense(case, _gram_distances), dynamic=False)


def _no_compiler(case: Case, device: torch.device) -> str | None:
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler; {compiler} is not found"
    return None if importlib.util.find_spec("triton") else "torch.compile needs triton"


# Peers from PyPI ----------------------------------------------------------------------------------------------------


def _no_peer(module: str, case: Case, device: torch.device) -> str | None:
    if importlib.util.find_spec(module) is None:
        return "not installed"
    return None if len(case.dims) == 1 else "has no such loss"


def _peer_bytes(case: Case) -> float:
    return 4 * case.n**2 * 3 * len(case.kernels[0].multipliers)


def _pytorch_adapt(case: Case) -> Loss:
    """Its quadratic MMD at the case's bandwidth. It takes the mean over the Gaussians where we take the sum."""
    from pytorch_adapt.layers import MMDLoss

    multipliers = case.kernels[0].multipliers
    scales = torch.tensor([1 / m for m in multipliers])

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            bandwidth = mean_distance(sources[0], targets[0])
        peer = MMDLoss(scales.to(sources[0].device), mmd_type="quadratic", bandwidth=bandwidth)
        return len(multipliers) * peer(sources[0], targets[0])

    return loss


def _geomloss(case: Case) -> Loss:
    """Its kernel loss, with the case's mixture as the kernel. It computes half of the V-statistic."""
    from geomloss import SamplesLoss

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            bandwidth = mean_distance(sources[0], targets[0])
        mixture = partial(_geomloss_mixture, case.kernels[0], bandwidth)
        return 2 * SamplesLoss("gaussian", kernel=mixture, backend="tensorized")(sources[0], targets[0])

    return loss


def _geomloss_mixture(kernel: Gaussian, bandwidth: Tensor, x: Tensor, y: Tensor, **_: object) -> Tensor:
    """``[B, n, d]`` and ``[B, m, d]`` to ``[B, n, m]``."""
    squared = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :] - 2 * x @ y.transpose(1, 2)
    return _mixture(squared, kernel, bandwidth)
