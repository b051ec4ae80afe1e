"""What bench/tune.py tries: for each line of the launch table, the cases that it must serve, and other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from bench.cases import FEATURES, JAN, SOFTMAX, Case
from fastmmd.kernels import blocks, small, table, tiles
from fastmmd.kernels.table import Config, Line

RAGGED = (201, 77)  # rows of source and target: no multiple of any tile


class Job(NamedTuple):
    """candidates: other configurations than the line's own."""

    name: str
    line: Line
    cases: tuple[Case, ...]
    candidates: tuple[Config, ...]


class Sweep(NamedTuple):
    """Routes against each other over N, the pooled rows. case: with whatever number of rows."""

    case: Case
    routes: tuple[type, ...]
    rows: tuple[int, ...]


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


def jobs(vendor: str) -> Iterator[Job]:
    """One for each line of a vendor; three for "tiles", whose formats compile to very different kernels."""
    for line in table.TABLE:
        if line.vendor != vendor:
            continue
        wide = line.layers > 3
        layers = f"up to {line.layers} layers"
        if isinstance(line.config, small.Config):
            cases = (_case(64, (2048, 8)), _case(36, (256, 31)), _case(64, (2048,), "bf16"))
            eight = (_case(64, (256,) * 7 + (31,)),)
            yield Job(f"small, {layers}", line, eight if wide else cases, _others(line, _small()))
        elif isinstance(line.config, tiles.Config):
            for format in ("bf16", "tf32", "tf32x3"):
                one = line._replace(formats=(format,))
                yield Job(f"tiles, {format}", one, (_case(4096, (256, 8), format, 4),), _others(line, _tiles()))
        else:
            cases = (_case(1024, (256, 8)), _case(4096, (2048,), "tf32", 4))
            eight = (_case(1024, (64,) * 8),)
            yield Job(f"blocks, {layers}", line, eight if wide else cases, _others(line, _blocks()))


def sweeps() -> tuple[Sweep, ...]:
    few = (128, 192, 256, 384, 512, 768, 1024, 2048)
    many = (1024, 2048, 4096, 8192, 16384)
    return (
        Sweep(_case(64, (256, 8)), (small.Config, blocks.Config), few),
        Sweep(_case(64, (2048,)), (small.Config, blocks.Config), few),
        Sweep(_case(64, (2048,), "bf16"), (small.Config, blocks.Config), few),
        Sweep(_case(512, (256, 8), "tf32"), (tiles.Config, blocks.Config), many),
        Sweep(_case(512, (256, 8), "bf16"), (tiles.Config, blocks.Config), many),
    )


def _others(line: Line, configs: Iterator[Config]) -> tuple[Config, ...]:
    return tuple(config for config in configs if config != line.config)


def _small() -> Iterator[Config]:
    for tile, chunk, part, parts, warps, stages in product(
        (16, 32, 64), (32, 64, 128), (128, 256, 512), (4, 8, 16), (4, 8), (1, 2, 3)
    ):
        yield small.Config(tile, 32, chunk, part, parts, warps, stages)


def _tiles() -> Iterator[Config]:
    for tile, columns, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
        if columns <= tile:
            yield tiles.Config(tile, columns, warps, stages)


def _blocks() -> Iterator[Config]:
    for tile, warps, mib in product((32, 64), (4, 8), (16, 32, 64, 128, 256)):
        yield blocks.Config(tile, warps, mib << 20)
