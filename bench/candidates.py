"""What bench/tune.py tries: for each launch rule of a backend, the cases that it must serve, and other configs.

The rules are `RULES` in fastmmd/backends/cuda/launch_rules.py and in kernels/launch_rules.py. Triton is imported where
its rules are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.cases import FEATURES, JAN, SOFTMAX, Case
from bench.routes import BACKENDS, backend_of, route_of
from fastmmd import extension
from fastmmd.backends import cuda, triton
from fastmmd.backends.cuda import architecture, fused

if TYPE_CHECKING:
    from bench.routes import AnyRule, Config

RAGGED = (201, 77)  # rows of source and target: no multiple of any tile
WORKSPACES_MIB = (16, 24, 32, 64, 128)


class Job(NamedTuple):
    """candidates: other configs than the rule's."""

    name: str
    rule: AnyRule
    cases: tuple[Case, ...]
    candidates: tuple[Config, ...]


class Sweep(NamedTuple):
    """All backends' routes of some names against each other over N, the pooled rows. case: with any number of rows."""

    case: Case
    routes: tuple[str, ...]
    rows: tuple[int, ...]


def rules_of(backend: str) -> list[AnyRule]:
    """A backend's launch rules for the GPU at hand."""
    if backend == "cuda":
        return list(cuda.launch_rules.RULES)
    from fastmmd.kernels import launch_rules

    capability = triton.capability(torch.device("cuda" if torch.cuda.is_available() else "cpu", 0))
    return [rule for rule in launch_rules.RULES if rule.runs_on(launch_rules.vendor(), capability)]


def rule_for(backend: str, route: str, case: Case, proposed: Sequence[AnyRule] = ()) -> AnyRule | None:
    """The first rule of a route that can take a case, whatever its number of rows; one for its precision if there is
    any. None: no rule of the route can. proposed: rules that go before the backend's."""
    able = [
        rule
        for rule in (*proposed, *rules_of(backend))
        if backend_of(rule.config) == backend and route_of(rule.config) == route and _holds(rule, case)
    ]
    return next((rule for rule in able if case.precision in rule.formats), able[0] if able else None)


def _holds(rule: AnyRule, case: Case) -> bool:
    """Whether the layers of a case are as few and narrow as a rule has them, whatever its rows and precision."""
    width = sum(_padded_widths(backend_of(rule.config))(case.dims))
    if not rule.fits(
        vendor=rule.vendor,
        capability=rule.capabilities[0] if rule.capabilities else None,
        rows=rule.min_rows,
        dims=case.dims,
        width=width,
        format=rule.formats[0],
    ):
        return False
    if not isinstance(rule.config, fused.Config) or extension.module is None or not extension.module.CUDA:
        return True
    on_host = extension.module.CUDA_ON_HOST or not torch.cuda.is_available()
    device = torch.device("cpu") if on_host else torch.device("cuda", 0)
    return fused.fits(case.dims, case.precision, rule.config, architecture.shared_memory(device))


def _padded_widths(backend: str) -> Callable[[Sequence[int]], Sequence[int]]:
    if backend == "cuda":
        return fused.padded_widths
    from fastmmd.kernels.fused import padded_widths

    return padded_widths


def _case(n: int, dims: tuple[int, ...], precision: str = "ieee", copies: int = 1) -> Case:
    kernels = (FEATURES,) if len(dims) == 1 else JAN if len(dims) == 2 else (FEATURES,) * (len(dims) - 1) + (SOFTMAX,)
    shape = " x ".join(str(d) for d in dims) if len(dims) < 4 else f"{len(dims)} layers"
    joint = 0.2 ** (len(dims) - 2) if len(dims) > 2 else 1.0  # the gate judges losses of size 1; mixtures are of size 5
    return Case(f"{n}+{n}, {shape}, {precision}", n, n, dims, kernels, joint, precision=precision, copies=copies)


GEMM_CASES = (_case(1024, (256, 8)), _case(4096, (2048,), "tf32", 4))


def ragged(case: Case) -> Case:
    """The case with `RAGGED` rows."""
    return replace(case, name=f"{case.name}, ragged", n_source=RAGGED[0], n_target=RAGGED[1], copies=1)


def of_rows(case: Case, n: int) -> Case:
    """The case with N pooled rows; many of them are copies, which makes the fp64 reference cheap."""
    return _case(n // 2, case.dims, case.precision, copies=max(1, n // 4096))


def jobs(backends: Sequence[str] = BACKENDS) -> Iterator[Job]:
    """One per rule; for route "fused" one per format, since these compile to very different kernels."""
    if "cuda" in backends:
        yield from _cuda_jobs()
    if "triton" in backends:
        yield from _triton_jobs()


def _cuda_jobs() -> Iterator[Job]:
    fused_formats: set[str] = set()
    for rule in rules_of("cuda"):
        route = route_of(rule.config)
        if route == "small":
            cases, parts = _cuda_small(rule.max_width)
            yield _job(f"cuda small, d up to {rule.max_width}", rule, cases, _cuda_small_configs(parts))
        elif route == "fused":
            for format in [format for format in rule.formats if format not in fused_formats]:
                fused_formats.add(format)
                cases = (_case(2048, (256, 8), format, 2), _case(16384, (256, 8), format, 16))
                present = replace(rule_for("cuda", "fused", cases[0]) or rule, formats=(format,))
                yield _job(f"cuda fused, {format}", present, cases, _cuda_fused_configs())
        else:
            yield _job("cuda gemm", rule, GEMM_CASES, [cuda.gemm.Config(mib << 20) for mib in WORKSPACES_MIB])


def _cuda_small(max_width: int | None) -> tuple[tuple[Case, ...], tuple[int, ...]]:
    """Cases for a rule of up to so many features, and sizes of parts."""
    if max_width is not None and max_width < 2048:
        return (_case(36, (256, 31)), _case(64, (256, 8)), _case(128, (256, 10))), (32, 64, 96, 128, 256, 512)
    if max_width is not None and max_width < 16384:
        return (_case(64, (2048, 8)), _case(64, (2048,))), (64, 128, 256, 512, 1024, 2048)
    return (_case(64, (8192, 8)), _case(64, (16384,))), (512, 1024, 2048, 4096)


def _cuda_small_configs(parts: Sequence[int]) -> Iterator[Config]:
    for part_features, chunk in product(parts, (32, 64)):
        yield cuda.small.Config(part_features=part_features, chunk=chunk)


def _cuda_fused_configs() -> Iterator[Config]:
    for thread_blocks, stages in product((132, 264, 396, 528, 792, 1056), (1, 2)):
        yield cuda.fused.Config(thread_blocks=thread_blocks, stages=stages)


def _triton_jobs() -> Iterator[Job]:
    few_layers = _case(64, (2048, 8)), _case(36, (256, 31)), _case(64, (2048,), "bf16")
    cases: tuple[Case, ...]
    for rule in rules_of("triton"):
        route, many = route_of(rule.config), rule.max_layers > 3
        layers = f"up to {rule.max_layers} layers"
        if route == "small":
            cases = (_case(64, (256,) * 7 + (31,)),) if many else few_layers
            yield _job(f"triton small, {layers}", rule, cases, _triton_small(rule))
        elif route == "fused":
            for format in rule.formats:
                cases = (_case(4096, (256, 8), format, 4),)
                yield _job(f"triton fused, {format}", replace(rule, formats=(format,)), cases, _triton_fused())
        else:
            cases = (_case(1024, (64,) * 8),) if many else GEMM_CASES
            yield _job(f"triton gemm, {layers}", rule, cases, _triton_gemm())


def sweeps() -> tuple[Sweep, ...]:
    few = (72, 128, 192, 256, 384, 512, 1024, 2048)
    many = (1024, 2048, 4096, 8192, 16384)
    return (
        Sweep(_case(64, (256, 8)), ("small", "gemm"), few),
        Sweep(_case(64, (2048,)), ("small", "gemm"), few),
        Sweep(_case(64, (2048,), "bf16"), ("small", "gemm"), few),
        Sweep(_case(512, (64, 8), "tf32"), ("fused", "gemm"), many),
        Sweep(_case(512, (256, 8)), ("gemm",), many),
        Sweep(_case(512, (256, 8), "tf32"), ("fused", "gemm"), many),
        Sweep(_case(512, (256, 8), "bf16"), ("fused", "gemm"), many),
        Sweep(_case(512, (2048,), "bf16"), ("gemm",), many),
    )


def short_jobs(backends: Sequence[str] = BACKENDS) -> Iterator[Job]:
    """The most promising alternatives alone, those first that should bring most."""
    if "triton" in backends:
        yield from _short_triton_jobs()
    if "cuda" in backends:
        few = (_case(36, (256, 31)), _case(128, (256, 10)))
        wide = (_case(64, (2048, 8)),)
        many = (_case(4096, (256,), "bf16", 4),)
        narrow_parts = [
            cuda.small.Config(part_features=64, chunk=32, overlap=False),
            *(cuda.small.Config(part_features=features, chunk=32) for features in (32, 128)),
        ]
        wide_parts = [cuda.small.Config(part_features=features, chunk=64) for features in (128, 512)]
        splits = [
            cuda.fused.Config(thread_blocks=thread_blocks, stages=stages)
            for thread_blocks, stages in ((132, 2), (528, 2), (264, 1))
        ]
        yield _short_job("cuda small, few features", few, narrow_parts)
        yield _short_job("cuda small, wide", wide, wide_parts)
        yield _short_job("cuda fused, bf16", many, splits)


def _short_triton_jobs() -> Iterator[Job]:
    from fastmmd.kernels import fused, gemm, small

    bf16, tf32 = ((_case(4096, (256,), precision, 4),) for precision in ("bf16", "tf32"))
    larger = [
        fused.Config(tile=128, columns=columns, warps=8, stages=stages)
        for columns, stages in ((32, 2), (64, 2), (64, 3))
    ]
    square = fused.Config(tile=64, columns=64, warps=4, stages=2)
    yield _short_job("triton fused, bf16", bf16, [*larger, square])
    yield _short_job("triton fused, tf32", tf32, [larger[0], fused.Config(tile=64, columns=16, warps=4, stages=2)])
    panels = [
        gemm.Config(rows=rows, columns=columns, warps=warps, workspace_bytes=mib << 20)
        for rows, columns, warps, mib in ((32, 64, 4, 16), (32, 64, 4, 64), (64, 64, 8, 24), (32, 32, 4, 24))
    ]
    yield _short_job("triton gemm, tf32", (_case(4096, (2048,), "tf32", 4),), panels)
    few = (_case(36, (256, 31)), _case(64, (2048, 8)))
    rule = rule_for("triton", "small", few[0])
    assert rule is not None
    present = rule.config
    assert isinstance(present, small.Config)
    others = [replace(present, part_features=128), replace(present, warps=4)]
    if present.overlap:
        others.append(replace(present, overlap=False))
    yield _short_job("triton small", few, others)


def _short_job(name: str, cases: tuple[Case, ...], configs: Sequence[Config]) -> Job:
    """The configs belong to one route, whose present rule for these cases they are compared with."""
    backend, route = backend_of(configs[0]), route_of(configs[0])
    rule = rule_for(backend, route, cases[0])
    if rule is None:
        raise ValueError(f"{backend} has no rule for {route} at {cases[0].name}")
    return _job(name, replace(rule, formats=(cases[0].precision,)), cases, configs)


def short_sweeps() -> tuple[Sweep, ...]:
    """Where the routes cross at 256 x 8 features."""
    few, many = (128, 256, 512, 2048), (2048, 4096, 8192, 16384)
    return (
        Sweep(_case(64, (256, 8)), ("small", "gemm"), few),
        Sweep(_case(512, (256, 8), "bf16"), ("fused", "gemm"), many),
        Sweep(_case(512, (256, 8), "tf32"), ("fused", "gemm"), many),
    )


def _job(name: str, rule: AnyRule, cases: tuple[Case, ...], configs: Iterable[Config]) -> Job:
    return Job(name, rule, cases, tuple([config for config in configs if config != rule.config]))


def _triton_small(rule: AnyRule) -> Iterator[Config]:
    from fastmmd.kernels import small

    assert isinstance(rule.config, small.Config)
    for tile, chunk, part_features, max_parts, warps, stages, overlap in product(
        (16, 32, 64), (32, 64, 128), (128, 256, 512), (4, 8, 16), (4, 8), (1, 2, 3), {False, rule.config.overlap}
    ):
        yield small.Config(
            tile=tile,
            features=32,
            chunk=chunk,
            part_features=part_features,
            max_parts=max_parts,
            warps=warps,
            stages=stages,
            overlap=overlap,
        )


def _triton_fused() -> Iterator[Config]:
    from fastmmd.kernels import fused

    for tile, columns, warps, stages in product((64, 128), (16, 32, 64, 128), (4, 8), (1, 2, 3)):
        if columns <= tile:
            yield fused.Config(tile=tile, columns=columns, warps=warps, stages=stages)


def _triton_gemm() -> Iterator[Config]:
    from fastmmd.kernels import gemm

    for (rows, columns), warps, mib in product(((32, 32), (32, 64), (64, 64)), (4, 8), WORKSPACES_MIB):
        yield gemm.Config(rows=rows, columns=columns, warps=warps, workspace_bytes=mib << 20)
