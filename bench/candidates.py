"""What bench/tune.py tries: for each line of a backend's launch table, the cases that it must serve, and other sizes.

The tables are `TABLE` in fastmmd/backends/cuda.py and kernels/table.py. Triton is imported only where its table is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import torch

from bench.cases import FEATURES, JAN, SOFTMAX, Case
from fastmmd import compiled
from fastmmd.backends import cuda

if TYPE_CHECKING:
    from fastmmd.kernels import table

    Config = cuda.Small | cuda.Tiles | cuda.Blocks | table.Config
    Line = cuda.Line | table.Line

BACKENDS = ("cuda", "triton")
RAGGED = (201, 77)  # rows of source and target: no multiple of any tile


class Job(NamedTuple):
    """candidates: other configurations than the line's own."""

    name: str
    line: Line
    cases: tuple[Case, ...]
    candidates: tuple[Config, ...]


class Sweep(NamedTuple):
    """All backends' routes of some kinds ("small", "tiles", "blocks") against each other over N, the pooled rows.
    case: with whatever number of rows."""

    case: Case
    kinds: tuple[str, ...]
    rows: tuple[int, ...]


def table_of(backend: str) -> ModuleType:
    """The module with its `TABLE`, the `Line` that this is made of, and `line`, which finds one."""
    if backend == "cuda":
        return cuda
    from fastmmd.kernels import table

    return table


def backend_of(line: Line) -> str:
    return "cuda" if isinstance(line, cuda.Line) else "triton"


def kind(config: Config) -> str:
    """The route that a configuration belongs to: "small", "tiles" or "blocks"."""
    return name(config).partition("(")[0].removesuffix(".Config").lower()


def name(config: Config) -> str:
    """As it is written in its table."""
    module = type(config).__module__.rpartition(".")[2]
    return f"{module}.{config!r}" if type(config).__name__ == "Config" else repr(config)


@contextmanager
def forced(line: Line) -> Iterator[None]:
    """Within it a backend takes this line of its table for every problem, whatever the table would choose."""
    with patch.object(table_of(backend_of(line)), "line", lambda *_: line):
        yield


def line_for(backend: str, kind_: str, case: Case, proposed: Sequence[Line] = ()) -> Line | None:
    """The first line of a route that can take a case, whatever its number of rows; one for its precision if there is
    any. None: no line of the route can."""
    of_route = [
        line
        for line in (*(line for line in proposed if backend_of(line) == backend), *_own(backend))
        if kind(line.config) == kind_ and len(case.dims) <= line.layers
    ]
    if backend == "cuda":
        of_route = [line for line in of_route if _holds(line, case)]
    return next((line for line in of_route if case.precision in line.formats), of_route[0] if of_route else None)


def _holds(line: cuda.Line, case: Case) -> bool:
    units = sum(-(-d // 16) for d in case.dims)
    extension = compiled.module
    if units > line.units or not isinstance(line.config, cuda.Tiles) or extension is None or not extension.CUDA:
        return units <= line.units
    on_host = extension.CUDA_ON_HOST or not torch.cuda.is_available()
    device = torch.device("cpu") if on_host else torch.device("cuda", 0)
    bytes = extension.cuda_tiles_shared_bytes(case.precision, units, len(case.dims), True, line.config.buffers)
    return bytes <= cuda._shared_memory(device)


def _own(backend: str) -> list[Line]:
    """The lines for the GPU at hand."""
    table = table_of(backend)
    return [line for line in table.TABLE if backend == "cuda" or line.vendor == table.vendor()]


def _case(n: int, dims: tuple[int, ...], precision: str = "ieee", copies: int = 1) -> Case:
    kernels = (FEATURES,) if len(dims) == 1 else JAN if len(dims) == 2 else (FEATURES,) * (len(dims) - 1) + (SOFTMAX,)
    shape = " x ".join(str(d) for d in dims) if len(dims) < 4 else f"{len(dims)} layers"
    joint = 0.2 ** (len(dims) - 2) if len(dims) > 2 else 1.0  # the gate judges losses of size 1; mixtures are of size 5
    return Case(f"{n}+{n}, {shape}, {precision}", n, n, dims, kernels, joint, precision=precision, copies=copies)


def ragged(case: Case) -> Case:
    return replace(case, name=f"{case.name}, ragged", n_source=RAGGED[0], n_target=RAGGED[1], copies=1)


def of_rows(case: Case, n: int) -> Case:
    """The same with N pooled rows; many of them are copies, which makes the fp64 reference cheap."""
    return _case(n // 2, case.dims, case.precision, copies=max(1, n // 4096))


def jobs(backends: Sequence[str] = BACKENDS) -> Iterator[Job]:
    """One for each line; for "tiles" one for each format, since these compile to very different kernels."""
    if "cuda" in backends:
        yield from _cuda_jobs()
    if "triton" in backends:
        yield from _triton_jobs()


def _cuda_jobs() -> Iterator[Job]:
    tiles_formats: set[str] = set()
    for line in cuda.TABLE:
        if isinstance(line.config, cuda.Small):
            cases, parts = _cuda_small(line.units)
            configs = (cuda.Small(part, chunk) for part, chunk in product(parts, (32, 64)))
            yield Job(f"cuda small, d up to {16 * line.units}", line, cases, _others(line, configs))
        elif isinstance(line.config, cuda.Tiles):
            for format in line.formats:
                if format in tiles_formats or format == "f16":  # whose kernel differs from bf16's in one instruction
                    continue
                tiles_formats.add(format)
                dims = (256, 8) if line.units >= 17 else (64, 31)
                cases = (_case(2048, dims, format, 2), _case(16384, dims, format, 16))
                present = (line_for("cuda", "tiles", cases[0]) or line)._replace(formats=(format,))
                configs = (cuda.Tiles(*pair) for pair in product((132, 264, 396, 528, 792, 1056), (1, 2)))
                yield Job(f"cuda tiles, {format}", present, cases, _others(present, configs))
        else:
            cases = (_case(1024, (256, 8)), _case(4096, (2048,), "tf32", 4))
            configs = (cuda.Blocks(mib << 20) for mib in (16, 32, 64, 128, 256))
            yield Job("cuda blocks", line, cases, _others(line, configs))


def _cuda_small(units: int) -> tuple[tuple[Case, ...], tuple[int, ...]]:
    """Cases for a line, and sizes of parts."""
    if units < 128:
        return (_case(36, (256, 31)), _case(64, (256, 8)), _case(128, (256, 10))), (32, 64, 96, 128, 256, 512)
    if units < 1024:
        return (_case(64, (2048, 8)), _case(64, (2048,))), (64, 128, 256, 512, 1024, 2048)
    return (_case(64, (8192, 8)), _case(64, (16384,))), (512, 1024, 2048, 4096)


def _triton_jobs() -> Iterator[Job]:
    for line in _own("triton"):
        of = kind(line.config)
        wide = line.layers > 3
        layers = f"up to {line.layers} layers"
        if of == "small":
            cases = (_case(64, (2048, 8)), _case(36, (256, 31)), _case(64, (2048,), "bf16"))
            eight = (_case(64, (256,) * 7 + (31,)),)
            yield Job(f"triton small, {layers}", line, eight if wide else cases, _others(line, _triton_small()))
        elif of == "tiles":
            for format in ("bf16", "tf32", "tf32x3"):
                cases = (_case(4096, (256, 8), format, 4),)
                one = line._replace(formats=(format,))
                yield Job(f"triton tiles, {format}", one, cases, _others(line, _triton_tiles()))
        else:
            cases = (_case(1024, (256, 8)), _case(4096, (2048,), "tf32", 4))
            eight = (_case(1024, (64,) * 8),)
            yield Job(f"triton blocks, {layers}", line, eight if wide else cases, _others(line, _triton_blocks()))


def sweeps() -> tuple[Sweep, ...]:
    few = (72, 128, 192, 256, 384, 512, 1024, 2048)
    many = (1024, 2048, 4096, 8192, 16384)
    return (
        Sweep(_case(64, (256, 8)), ("small", "blocks"), few),
        Sweep(_case(64, (2048,)), ("small", "blocks"), few),
        Sweep(_case(64, (2048,), "bf16"), ("small", "blocks"), few),
        Sweep(_case(512, (64, 8)), ("tiles", "blocks"), many),
        Sweep(_case(512, (256, 8)), ("blocks",), many),
        Sweep(_case(512, (256, 8), "tf32"), ("tiles", "blocks"), many),
        Sweep(_case(512, (256, 8), "bf16"), ("tiles", "blocks"), many),
        Sweep(_case(512, (2048,), "bf16"), ("blocks",), many),
    )


def short_jobs(backends: Sequence[str] = BACKENDS) -> Iterator[Job]:
    """The most promising alternatives alone, those first that should bring most."""
    if "triton" in backends:
        yield from _short_triton_jobs()
    if "cuda" in backends:
        few = (_case(36, (256, 31)), _case(128, (256, 10)))
        wide = (_case(64, (2048, 8)),)
        many = (_case(4096, (256,), "bf16", 4),)
        yield _short_job("cuda small, few features", "cuda", few, (cuda.Small(32, 32), cuda.Small(128, 32)))
        yield _short_job("cuda small, wide", "cuda", wide, (cuda.Small(128, 64), cuda.Small(512, 64)))
        yield _short_job("cuda tiles, bf16", "cuda", many, (cuda.Tiles(132, 2), cuda.Tiles(528, 2), cuda.Tiles(264, 1)))


def _short_triton_jobs() -> Iterator[Job]:
    from fastmmd.kernels import blocks, small, tiles

    bf16, tf32 = ((_case(4096, (256,), precision, 4),) for precision in ("bf16", "tf32"))
    larger = [
        tiles.Config(tile=128, columns=columns, warps=8, stages=stages)
        for columns, stages in ((32, 2), (64, 2), (64, 3))
    ]
    yield _short_job("triton tiles, bf16", "triton", bf16, (*larger, tiles.Config(64, 64, warps=4, stages=2)))
    yield _short_job("triton tiles, tf32", "triton", tf32, larger[:2])
    panels = [
        blocks.Config(tile=tile, warps=warps, workspace_bytes=mib << 20)
        for tile, warps, mib in ((32, 4, 16), (32, 4, 24), (64, 8, 24), (32, 4, 128))
    ]
    yield _short_job("triton blocks, tf32", "triton", (_case(4096, (2048,), "tf32", 4),), panels)
    parts = [
        small.Config(tile=32, features=32, chunk=64, part_features=features, max_parts=8, warps=warps, stages=2)
        for features, warps in ((128, 8), (256, 4))
    ]
    yield _short_job("triton small", "triton", (_case(36, (256, 31)), _case(64, (2048, 8))), parts)


def _short_job(label: str, backend: str, cases: tuple[Case, ...], configs: Sequence[Config]) -> Job:
    """The candidates belong to one route. The line: what the table has for that route and these cases."""
    line = line_for(backend, kind(configs[0]), cases[0])
    if line is None:
        raise ValueError(f"{backend} has no line for {kind(configs[0])} at {cases[0].name}")
    line = line._replace(formats=(cases[0].precision,))
    return Job(label, line, cases, _others(line, iter(configs)))


def short_sweeps() -> tuple[Sweep, ...]:
    """Where the routes cross at 256 x 8 features."""
    few, many = (128, 256, 512, 2048), (2048, 4096, 8192, 16384)
    return (
        Sweep(_case(64, (256, 8)), ("small", "blocks"), few),
        Sweep(_case(512, (256, 8), "bf16"), ("tiles", "blocks"), many),
        Sweep(_case(512, (256, 8), "tf32"), ("tiles", "blocks"), many),
    )


def _others(line: Line, configs: Iterator[Config]) -> tuple[Config, ...]:
    return tuple(config for config in configs if config != line.config)


def _triton_small() -> Iterator[Config]:
    from fastmmd.kernels import small

    for tile, chunk, part, parts, warps, stages in product(
        (16, 32, 64), (32, 64, 128), (128, 256, 512), (4, 8, 16), (4, 8), (1, 2, 3)
    ):
        yield small.Config(tile, 32, chunk, part, parts, warps, stages)


def _triton_tiles() -> Iterator[Config]:
    from fastmmd.kernels import tiles

    for tile, columns, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
        if columns <= tile:
            yield tiles.Config(tile, columns, warps, stages)


def _triton_blocks() -> Iterator[Config]:
    from fastmmd.kernels import blocks

    for tile, warps, mib in product((32, 64), (4, 8), (16, 32, 64, 128, 256)):
        yield blocks.Config(tile, warps, mib << 20)
