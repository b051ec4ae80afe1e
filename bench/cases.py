"""What is measured: the shapes and terms of real training and evaluation, and the targets set for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.forms import Classes, Groups, Kind, Samples
from fastmmd import Gaussian

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]  # of sources and targets: 0-d, differentiable

FEATURES = Gaussian()  # five Gaussians around the mean squared distance, as in DAN and JAN
SOFTMAX = Gaussian(1.68, (1,))  # JAN's kernel for softmax outputs
JAN = (FEATURES, SOFTMAX)
DOMAINBED = Gaussian(1.0, (1e3, 1e2, 10, 1, 0.1, 1e-2, 1e-3))  # exp(-gamma D), gamma from 0.001 to 1000
ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
TRVAE = Gaussian(1.0, [2 * alpha for alpha in ALPHAS])


@dataclass(frozen=True)
class Targets:
    """Floors for the speedups over other versions and for the share of torch.mm's rate; ceilings for
    extra memory and for microseconds in a CUDA graph. None: no target."""

    naive: float | None = None
    dense: float | None = None
    compiled: float | None = None
    unweighted: float | None = None
    per_pair: float | None = None
    dsan: float | None = None
    share: float | None = None
    extra_mib: float | None = None
    graph_us: float | None = None


@dataclass(frozen=True)
class Case:
    """``joint * JMMD(all layers) + sum_l marginal[l] * MMD(layer l)`` of fp32 batches; V-statistic.

    n_target: 0 where rows fall into groups; then there are no targets.
    kernels: one per layer, whose bandwidth is "mean" or a number.
    form: the weights of pairs, where they depend on more than the domains.
    precision: the least precise format that products may use (fastmmd's argument).
    targets, gpu_targets: on a CPU, and on a GPU.
    """

    name: str
    n_source: int
    n_target: int
    dims: tuple[int, ...]
    kernels: tuple[Gaussian, ...]
    joint: float = 1.0
    marginal: tuple[float, ...] = ()
    targets: Targets = Targets()
    quick: bool = False  # part of --quick and of the pytest-benchmark suite
    series: str | None = None  # cases of one series differ in size only and make the plots over N
    copies: int = 1  # how often each row occurs, in random order (see `order`)
    target_copies: int | None = None  # of the target's rows, where not as often
    precision: str = "ieee"
    gpu: bool = False  # measured on GPUs only
    form: Kind | None = None
    gpu_targets: Targets = Targets(dense=4, compiled=2)

    @property
    def n(self) -> int:
        return self.n_source + self.n_target

    @property
    def marginals(self) -> tuple[float, ...]:
        return self.marginal or (0.0,) * len(self.dims)

    def targets_on(self, kind: str) -> Targets:
        return self.gpu_targets if kind == "cuda" else self.targets

    @property
    def gradient_bytes(self) -> int:
        return 4 * self.n * sum(self.dims)

    @property
    def distinct(self) -> Case:
        """The case of one of each row. Repeated rows leave a V-statistic as it is, so that the loss of many rows,
        computed in full, can be checked against that of a few."""
        n_source, n_target = (n // copies for n, copies in self.sides)
        return replace(self, n_source=n_source, n_target=n_target, copies=1, target_copies=None)

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and copies of the source, and of the target."""
        return (self.n_source, self.copies), (self.n_target, self.target_copies or self.copies)

    @property
    def orders(self) -> tuple[Tensor, Tensor]:
        """``[n]`` for either side: which of the distinct rows each row is."""
        return _order(*self.sides[0]), _order(*self.sides[1])

    def inputs(self, device: str | torch.device = "cpu") -> tuple[list[Tensor], list[Tensor]]:
        """Sources and targets, one ``[n, d]`` tensor per layer: shifted normal features, then softmax outputs. Where
        n_target is 0 there are no targets."""
        generator = torch.Generator().manual_seed(0)
        sources, targets = [], []
        distinct, (source_order, target_order) = self.distinct, self.orders
        for layer, d in enumerate(self.dims):
            source = torch.randn(distinct.n_source, d, generator=generator)[source_order]
            target = torch.randn(distinct.n_target, d, generator=generator)[target_order] + 0.2
            if layer > 0:
                source, target = source.softmax(1), (2 * target).softmax(1)
            sources.append(source.to(device).requires_grad_())
            if self.n_target:
                targets.append(target.to(device).requires_grad_())
        return sources, targets

    def matrices(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """W ``[N, P]`` and A ``[P, P]`` of the form, in fp64."""
        return None if self.form is None else self.form.matrices(self.n_source, self.n_target, device)


def _order(n: int, copies: int) -> Tensor:
    if copies == 1:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(n)) % (n // copies)


def pooled(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
    """``[N, d]`` of each layer, sources first."""
    return [torch.cat(pair) for pair in zip(sources, targets, strict=True)] if targets else list(sources)


def _mmd(n: int, d: int, targets: Targets = Targets(), **options: Any) -> Case:
    """options: further fields of `Case`."""
    return Case(f"MMD {n}+{n}, d {d}", n, n, (d,), (FEATURES,), targets=targets, **options)


def _jmmd(n: int, dims: tuple[int, int], targets: Targets = Targets(), m: int | None = None, **options: Any) -> Case:
    m = n if m is None else m
    return Case(f"JMMD {n}+{m}, d {dims[0]} x {dims[1]}", n, m, dims, JAN, targets=targets, **options)


def _transfer(n: int, dims: tuple[int, int], **options: Any) -> Case:
    """He & Ding's transfer term: 0.2 JMMD(features, softmax) + 0.3 MMD(features)."""
    return Case(f"0.2 JMMD + 0.3 MMD {n}+{n}, d {dims[0]} x {dims[1]}", n, n, dims, JAN, 0.2, (0.3, 0.0), **options)


def _groups(name: str, form: Groups, rows: int, d: int, kernel: Gaussian, targets: Targets = Targets()) -> Case:
    """rows: per group."""
    name = f"{name}, {form.count} x {rows}, d {d}"
    return Case(name, form.count * rows, 0, (d,), (kernel,), targets=targets, form=form)


def _lmmd(name: str, n: int, d: int, classes: int, targets: Targets = Targets()) -> Case:
    name = f"{name} {n}+{n}, d {d}, {classes} classes"
    return Case(name, n, n, (d,), (FEATURES,), targets=targets, form=Classes(classes))


def _in_formats(case: Case) -> tuple[Case, ...]:
    """The case on a GPU's matrix units too, which round their operands. Shares are targets at every precision."""
    return case, *(
        replace(case, name=f"{case.name}, {precision}", precision=precision, gpu=True, quick=False, series=None)
        for precision in ("tf32", "bf16")
    )


SIZES = "JMMD, d 256 x 8"
SAMPLE_WEIGHTS = Targets(unweighted=0.91)
BLUR_8 = Gaussian(2 * 8.0**2, (1,))  # of geomloss: about the mean squared distance of 64 normal features
MANY_ROWS = 65536  # above, a step that visits all pairs slowly takes a CPU minutes
LAUNCH_BOUND = Targets(dense=4, compiled=2, graph_us=15)  # on a GPU, at N = 128

CASES = (
    _jmmd(36, (256, 31), Targets(naive=25, dense=4), quick=True, gpu_targets=LAUNCH_BOUND),
    _jmmd(36, (256, 8), m=12, gpu_targets=LAUNCH_BOUND),
    *_in_formats(
        _mmd(64, 2048, Targets(naive=150, dense=2.5, share=0.65, extra_mib=4), quick=True, gpu_targets=LAUNCH_BOUND)
    ),
    _jmmd(64, (2048, 8), gpu_targets=LAUNCH_BOUND),
    _transfer(64, (256, 8), quick=True),
    _transfer(64, (2048, 8)),
    _jmmd(128, (256, 10)),
    _mmd(1024, 256),
    _mmd(2048, 2048, Targets(dense=3.5, share=0.93, extra_mib=64)),
    _jmmd(64, (256, 8), series=SIZES, gpu_targets=LAUNCH_BOUND),
    _jmmd(256, (256, 8), series=SIZES),
    _jmmd(1024, (256, 8), series=SIZES),
    *_in_formats(_jmmd(4096, (256, 8), Targets(dense=5, share=0.85, extra_mib=64), series=SIZES, copies=4)),
    *_in_formats(_mmd(4096, 2048, gpu=True, gpu_targets=Targets(dense=4, compiled=2, share=0.6))),
    _jmmd(16384, (256, 8), Targets(share=0.85, extra_mib=128), series=SIZES, copies=8),
    *_in_formats(
        _jmmd(65536, (256, 8), series=SIZES, copies=16, gpu=True, gpu_targets=Targets(extra_mib=2048)),
    ),
    # Weights of pairs; those of samples may cost a tenth.
    Case("weighted MMD 64+64, d 2048", 64, 64, (2048,), (FEATURES,), targets=SAMPLE_WEIGHTS, form=Samples()),
    Case("weighted JMMD 4096+4096, d 256 x 8", 4096, 4096, (256, 8), JAN, targets=SAMPLE_WEIGHTS, form=Samples()),
    _groups("pairwise MMD", Groups(6), 32, 2048, DOMAINBED, Targets(per_pair=3)),
    _lmmd("LMMD", 64, 256, 31, Targets(dsan=5)),
    # In use: a training step's loss of DomainBed (three training domains), DSAN and trVAE (a batch of scArches' size),
    # geomloss where it takes KeOps by itself, and a report of running out of memory.
    _groups("in use: DomainBed", Groups(3), 32, 2048, DOMAINBED),
    _lmmd("in use: DSAN", 36, 256, 31),
    _groups("in use: trVAE", Groups(4, total=True), 32, 10, TRVAE),
    Case("in use: geomloss 10000+10000, d 64", 10000, 10000, (64,), (BLUR_8,), form=Samples()),
    Case("in use: MMD 7207+93070, d 79", 7207, 93070, (79,), (FEATURES,), target_copies=10),
)
TRAINING = _jmmd(32, (2048, 31))  # the loss of a ResNet-50 with 31 classes, in bench/training.py
# On a GPU, where time can be short: measured before all others, in this order.
MAIN = (
    "JMMD 36+36, d 256 x 31",
    "JMMD 64+64, d 2048 x 8",
    "JMMD 128+128, d 256 x 10",
    "MMD 4096+4096, d 2048, tf32",
    "MMD 4096+4096, d 2048, bf16",
    "JMMD 4096+4096, d 256 x 8, bf16",
    "JMMD 4096+4096, d 256 x 8, tf32",
    "JMMD 65536+65536, d 256 x 8, bf16",
    "JMMD 65536+65536, d 256 x 8, tf32",
)


def main_rows() -> tuple[Case, ...]:
    by_name = {case.name: case for case in CASES}
    return tuple(by_name[name] for name in MAIN)
