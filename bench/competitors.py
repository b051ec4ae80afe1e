"""Who is measured: fastmmd's backends, the loss as the field writes it, good versions in torch, and peers if installed.

All compute the loss of a `Case` from ``(sources, targets)``, as a 0-d tensor that autograd differentiates. The dense
ones are written here from the formulas, the blocked one in `blocked`, the losses of projects that can't be installed
in `restated`. Bandwidths are constants for the gradient, as everywhere in the field.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from bench import blocked, keops, restated
from bench.calls import call_of
from bench.cases import MANY_ROWS, Case, Loss, pooled
from bench.forms import Classes, Groups, Samples
from bench.gate import UNWEIGHTED
from bench.restated import OTHER_LOSS
from bench.yardsticks import ReadyGradients
from fastmmd import Gaussian, discrepancy, dispatch, jmmd, lmmd, mmd, pairwise_mmd
from fastmmd.bandwidth import mean_distance
from fastmmd.call import Call

FASTMMD, TWO_CALLS, NAIVE = "fastmmd", "two calls", "naive broadcast"
WITHOUT_WEIGHTS, PER_PAIR = "fastmmd without weights", "a call per pair"
GEOMLOSS, GEOMLOSS_ONLINE = "geomloss", "geomloss online"
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
        Competitor(name=WITHOUT_WEIGHTS, make=_without_weights, refuses=_no_weights, estimator=UNWEIGHTED),
        Competitor(name=PER_PAIR, make=_per_pair, refuses=_no_groups),
        Competitor(
            name=restated.DOMAINBED,
            make=restated.domainbed,
            refuses=restated.no_mean_of_groups,
            leniency=2**19,  # the round-off of its diagonal, times gammas of up to 1000: half of its gradient in fp32
            capturable=False,
        ),
        Competitor(
            name=restated.DSAN,
            make=restated.dsan,
            refuses=restated.no_classes,
            needs=_naive_bytes,
            capturable=False,
        ),
        Competitor(
            name=restated.TRVAE,
            make=restated.trvae,
            refuses=restated.no_sum_of_groups,
            leniency=4,
            capturable=False,
        ),
        Competitor(
            name=NAIVE,
            make=partial(_dense, distances=_broadcast_distances),
            refuses=_weighted,
            needs=_naive_bytes,
        ),
        Competitor(name=DENSE, make=partial(_dense, distances=_gram_distances), refuses=_narrow, needs=_gram_bytes),
        # The error of its gradient grows with N: 3.7e-6 at N = 32768, 9e-7 at N = 8192.
        Competitor(name=BLOCKED, make=_blocked, refuses=_many_rows, leniency=4, capturable=False),
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
            name=GEOMLOSS,
            make=_geomloss,
            refuses=partial(_no_peer, "geomloss"),
            needs=_peer_bytes,
            capturable=False,
        ),
        Competitor(name=GEOMLOSS_ONLINE, make=_geomloss_online, refuses=_not_online, leniency=4, capturable=False),
        Competitor(name=keops.NAME, make=keops.KeOps, refuses=keops.refuses, leniency=4, capturable=False),
    )


# fastmmd ------------------------------------------------------------------------------------------------------------


def _fastmmd(case: Case, backend: str) -> Loss:
    options: dict[str, Any] = {"backend": backend, "precision": case.precision}
    terms: dict[str, Any] = {"joint": case.joint, "marginal": case.marginals}
    form = case.form
    if isinstance(form, Groups):
        return _pairwise(case, form, options)
    if isinstance(form, Classes):
        return _local(case, form, options | terms)

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        weights: dict[str, Any] = {}
        if isinstance(form, Samples):
            device = sources[0].device
            weights["source_weights"] = form.weights(case.n_source, 0, device)
            weights["target_weights"] = form.weights(case.n_target, 1, device)
        return discrepancy(sources, targets, case.kernels, **terms, **options, **weights).loss

    return loss


def _pairwise(case: Case, form: Groups, options: dict[str, Any]) -> Loss:
    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        device = sources[0].device
        groups = form.members(case.n, device)
        if not form.total:
            return pairwise_mmd(sources, groups, case.kernels, num_groups=form.count, **options).loss
        ones = form.ones(device)
        return pairwise_mmd(sources, groups, case.kernels, pair_weights=ones, **options).loss

    return loss


def _local(case: Case, form: Classes, options: dict[str, Any]) -> Loss:
    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        device = sources[0].device
        labels, probabilities = form.labels(case.n_source, device), form.probabilities(case.n_target, device)
        return lmmd(sources, targets, labels, probabilities, case.kernels, **options)

    return loss


def _without_weights(case: Case) -> Loss:
    return _fastmmd(replace(case, form=None), "auto")


def _no_weights(case: Case, device: torch.device) -> str | None:
    return None if isinstance(case.form, Samples) else OTHER_LOSS


def _per_pair(case: Case) -> Loss:
    """One call per pair of groups, each of which computes the two groups' own parts again."""
    form, (kernel,) = case.form, case.kernels
    assert isinstance(form, Groups)

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        groups = sources[0].split(case.n // form.count)
        values = [mmd(x, y, kernel, precision=case.precision) for x, y in combinations(groups, 2)]
        return sum(values, start=values[0].new_zeros(())) / (1 if form.total else form.pairs)

    return loss


def _no_groups(case: Case, device: torch.device) -> str | None:
    return None if isinstance(case.form, Groups) else OTHER_LOSS


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
    if case.form is not None:
        return OTHER_LOSS
    return None if any(case.marginals) else "the loss has a single term"


# Plain torch --------------------------------------------------------------------------------------------------------


def _dense(case: Case, distances: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Loss:
    """The whole loss from N x N matrices; `distances` is what the two versions differ in."""
    return _with_weights_of_pairs(case, partial(_dense_loss, case, distances))


def _with_weights_of_pairs(case: Case, loss: Callable[..., Tensor]) -> Loss:
    """The loss, which takes the form's W and A too where there is one: they are ready before it is timed."""
    if case.form is None:
        return loss

    def with_matrices(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        matrices = case.matrices(sources[0].device)
        assert matrices is not None
        w, a = matrices
        return loss(sources, targets, (w.to(sources[0].dtype), a.to(sources[0].dtype)))

    return with_matrices


def _dense_loss(
    case: Case,
    distances: Callable[[Tensor], tuple[Tensor, Tensor]],
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    form: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    if form is None:
        signs = torch.cat([_full(sources[0], 1 / case.n_source), _full(targets[0], -1 / case.n_target)])

    def value(matrix: Tensor) -> Tensor:
        if form is None:
            return signs @ matrix @ signs
        w, a = form
        return (w.T @ (matrix @ w) * a).sum()

    product: Tensor | None = None
    total: Tensor | float = 0.0
    for z, kernel, weight in zip(pooled(sources, targets), case.kernels, case.marginals, strict=True):
        squared, mean = distances(z)
        matrix = _mixture(squared, kernel, mean if kernel.static.rule == "mean" else kernel.static.number)
        product = matrix if product is None else product * matrix
        if weight:
            total = total + weight * value(matrix)
    assert product is not None  # a case has a layer
    return total + case.joint * value(product)


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


def _weighted(case: Case, device: torch.device) -> str | None:
    return None if case.form is None else "the projects' own losses stand for it"


def _narrow(case: Case, device: torch.device) -> str | None:
    widths = [k.static.number * min(k.multipliers) for k in case.kernels if k.static.rule != "mean"]
    return "its round-off is large beside the narrowest Gaussian" if min(widths, default=1) < 0.1 else None


def _naive_bytes(case: Case) -> float:
    """Each layer's differences, saved for backward, and three more of the widest layer while it is differentiated."""
    return 4 * case.n**2 * (sum(case.dims) + 3 * max(case.dims))


def _gram_bytes(case: Case) -> float:
    """Each Gaussian, two more matrices per layer (its sum, its distances' gradient), and one in flight."""
    return 4 * case.n**2 * (sum(len(kernel.multipliers) for kernel in case.kernels) + 2 * len(case.dims) + 1)


def _blocked(case: Case) -> Loss:
    """The gradient is computed with the loss, where one is wanted; backward only scales it."""
    case = replace(case, copies=1, target_copies=None)  # no profit from knowing that rows occur repeatedly

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        differentiate = torch.is_grad_enabled()
        with torch.no_grad():
            layers = blocked.centred(sources, targets)
            bandwidths = blocked.resolve_bandwidths(case, layers)
            value, gradients = blocked.discrepancy(case, layers, bandwidths, differentiate=differentiate)
        if not differentiate:
            return value
        n = case.n_source
        ready = [g[:n] for g in gradients] + [g[n:] for g in gradients[: len(targets)]]
        return ReadyGradients.apply(value, ready, *sources, *targets)

    return loss


def _many_rows(case: Case, device: torch.device) -> str | None:
    return "takes minutes" if device.type == "cpu" and case.n > MANY_ROWS else None


def _compiled(case: Case) -> Loss:
    torch._dynamo.reset()  # one case's graphs do not count against the next one's recompile limit
    compiled = torch.compile(partial(_dense_loss, case, _gram_distances), dynamic=False)
    return _with_weights_of_pairs(case, compiled)


def _no_compiler(case: Case, device: torch.device) -> str | None:
    if reason := _narrow(case, device):
        return reason
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler; {compiler} is not found"
    return None if importlib.util.find_spec("triton") else "torch.compile needs triton"


# Peers from PyPI ----------------------------------------------------------------------------------------------------


def _no_peer(module: str, case: Case, device: torch.device) -> str | None:
    if importlib.util.find_spec(module) is None:
        return "not installed"
    weighted = isinstance(case.form, Samples) and module == "geomloss"
    return None if len(case.dims) == 1 and (case.form is None or weighted) else "has no such loss"


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

    if (blur := _blur(case)) is not None:
        return _of_samples(case, SamplesLoss("gaussian", blur=blur, backend="tensorized"))

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            bandwidth = mean_distance(sources[0], targets[0])
        mixture = partial(_geomloss_mixture, case.kernels[0], bandwidth)
        return _of_samples(case, SamplesLoss("gaussian", kernel=mixture, backend="tensorized"))(sources, targets)

    return loss


def _geomloss_online(case: Case) -> Loss:
    """What it takes by itself above 5000 x 5000 rows: KeOps."""
    from geomloss import SamplesLoss

    return _of_samples(case, SamplesLoss("gaussian", blur=_blur(case), backend="online"))


def _not_online(case: Case, device: torch.device) -> str | None:
    if _blur(case) is None:
        return OTHER_LOSS
    return _no_peer("geomloss", case, device) or _no_peer("pykeops", replace(case, form=None), device)


def _blur(case: Case) -> float | None:
    """Of a single Gaussian with a given bandwidth."""
    kernel = case.kernels[0]
    single = len(kernel.multipliers) == 1 and kernel.static.rule != "mean"
    return (kernel.static.number * kernel.multipliers[0] / 2) ** 0.5 if single else None


def _of_samples(case: Case, samples_loss: Callable[..., Tensor]) -> Loss:
    """Twice geomloss's value, which is half of the V-statistic."""
    form = case.form

    def loss(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        x, y = sources[0], targets[0]
        if not isinstance(form, Samples):
            return 2 * samples_loss(x, y)
        a, b = form.weights(case.n_source, 0, x.device), form.weights(case.n_target, 1, x.device)
        return 2 * samples_loss(a, x, b, y)

    return loss


def _geomloss_mixture(kernel: Gaussian, bandwidth: Tensor, x: Tensor, y: Tensor, **_: object) -> Tensor:
    """``[B, n, d]`` and ``[B, m, d]`` to ``[B, n, m]``."""
    squared = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :] - 2 * x @ y.transpose(1, 2)
    return _mixture(squared, kernel, bandwidth)
