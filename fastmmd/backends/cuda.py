"""Backend "cuda": the compiled kernels of csrc/cuda on NVIDIA GPUs. Which of three routes a problem takes is in
`TABLE`:

Small: everything in two launches (csrc/cuda/small.cuh).
Tiles: one launch on packed rows, Gram tiles stay on the chip (csrc/cuda/tiles.cuh).
Blocks: torch's matrix products, and one fused pass between them (csrc/cuda/pass.cuh).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmmd import compiled
from fastmmd.backends import pooling
from fastmmd.backends.panels import Panels
from fastmmd.dtypes import compute_dtype
from fastmmd.matmul import matmul_precision, torch_precision
from fastmmd.problem import Problem

SMALL_ROWS = 256
MAX_GAUSSIANS = 128  # in the mixtures of all layers together: kMaxGaussians of csrc/cuda/plan.h
ANY = 1 << 62
# What tiles need, cp.async and tensor cores for TF32 and bf16, and the library for formats other than fp32.
TENSOR_CORES = (8, 0)
# Type of csrc/cuda/entry.h.
_TYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.float64: 3}
_STORED = {"bf16": torch.bfloat16, "f16": torch.float16}


class Small(NamedTuple):
    part_features: int  # of one block of the first launch
    chunk: int  # features of one block of the second: 32 or 64


class Tiles(NamedTuple):
    blocks: int  # of threads to aim at: a tile of rows is shared by several until there are as many
    buffers: int  # 2 hide the way from memory


class Blocks(NamedTuple):
    workspace_bytes: int  # of inner products, all layers together


class Line(NamedTuple):
    """
    formats: of products (see `product_format`).
    rows: fewest and most pooled rows.
    units: most groups of 16 features, every layer rounded up to whole groups.
    """

    formats: tuple[str, ...]
    rows: tuple[int, int]
    layers: int
    units: int
    config: Small | Tiles | Blocks
    reason: str


UNMEASURED = "not yet measured on a GPU"
ALL = ("fp64", "ieee", "tf32x3", "tf32", "bf16", "f16")
TABLE = (
    Line(
        *(ALL, (2, SMALL_ROWS), 8, 32),
        Small(part_features=64, chunk=32),
        "64 + 64 rows of 256 features are 40 blocks in the first launch and 32 in the second, each a "
        f"single wave; smaller chunks repeat the coefficients more often than they fill the GPU. {UNMEASURED}",
    ),
    Line(
        *(ALL, (2, SMALL_ROWS), 8, 256),
        Small(part_features=256, chunk=64),
        "64 + 64 rows of 2048 features: 80 blocks, then 128. Every block of the second launch reads all parts of its "
        f"rows' distances again, so parts are few. {UNMEASURED}",
    ),
    Line(
        *(ALL, (2, SMALL_ROWS), 8, 2048),
        Small(part_features=2048, chunk=64),
        f"at most 16 parts up to d = 32,768; the second launch alone fills the GPU. {UNMEASURED}",
    ),
    Line(
        *(("tf32x3", "tf32", "bf16", "f16"), (4096, ANY), 2, 20),
        Tiles(blocks=264, buffers=2),
        "twice as many blocks as an H200 has multiprocessors, each of which holds one (up to 128 features, two): no "
        f"long tail. {UNMEASURED}",
    ),
    Line(
        *(("tf32x3", "tf32", "bf16", "f16"), (4096, ANY), 2, 20),
        Tiles(blocks=264, buffers=1),
        f"where two buffers do not fit into shared memory. {UNMEASURED}",
    ),
    Line(
        *(("ieee",), (4096, ANY), 2, 6),
        Tiles(blocks=264, buffers=2),
        "up to 64 + 32 features: 600 flop a pair are less than the memory traffic of inner products that leave the "
        f"chip; beyond, the library's fp32 products beat 64 x 64 tiles. {UNMEASURED}",
    ),
    Line(
        *(ALL, (2, ANY), 8, ANY),
        Blocks(workspace_bytes=64 << 20),
        f"64 MiB of inner products are 2,896 rows a side with two layers: matrix products at full speed. {UNMEASURED}",
    ),
)


def unavailable(device: torch.device) -> str | None:
    extension = compiled.module
    if extension is None:
        return compiled.reason
    if not extension.CUDA:
        return f"fastmmd was installed without CUDA kernels: {extension.CUDA_ABSENT}"
    if device.type != ("cpu" if extension.CUDA_ON_HOST else "cuda"):
        return f"it computes on CUDA devices, the tensors are on {device.type}"
    return None if device.type == "cpu" else _not_compiled_for(device.index or 0)


@cache
def _not_compiled_for(index: int) -> str | None:
    if torch.version.hip is not None:
        return "it computes on NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    extension: Any = compiled.module
    reason = missing_architecture(torch.cuda.get_device_capability(index), extension.CUDA_ARCHS)
    if reason is None:
        with _current(torch.device("cuda", index)):
            reason = extension.cuda_probe(index) or None  # such as a driver older than CUDA's runtime
    return reason


def missing_architecture(capability: tuple[int, int], built: str) -> str | None:
    """Why kernels built for e.g. "80 90 120 120+PTX" do not run on a device; None if they do. Machine code runs on the
    same major version from its minor version on, PTX on everything newer."""
    major, minor = capability
    for arch in built.split():
        number, _, ptx = arch.partition("+")
        if not number.isdigit():  # 90a: on that chip alone
            if number[:-1] == f"{major}{minor}":
                return None
        elif (
            (int(number[:-1]), int(number[-1])) <= capability
            if ptx
            else (int(number[:-1]) == major and int(number[-1]) <= minor)
        ):
            return None
    return f"it was built for compute capabilities {built}, the device has {major}.{minor}"


def product_format(precision: str, inputs: Sequence[Tensor], dtype: torch.dtype) -> str:
    """Of the products' operands: never less precise than asked for. fp16 inputs have TF32's 11 digits, and products of
    fp16 are twice as fast. (Features more than 65,504 from the mean would be infinite.)"""
    if dtype == torch.float64:
        return "fp64"
    if precision == "tf32" and all(x.dtype == torch.float16 for x in inputs):
        return "f16"
    return precision


@lru_cache(maxsize=256)
def line(n: int, dims: tuple[int, ...], format: str, shared_memory: int) -> Line:
    """The first line that fits N pooled rows, layers of `dims` features, and what `_shared_memory` says."""
    units = _units(dims)

    def fits(line: Line) -> bool:
        if format not in line.formats or not line.rows[0] <= n <= line.rows[1]:
            return False
        if len(dims) > line.layers or sum(units) > line.units:
            return False
        return not isinstance(line.config, Tiles) or shared_memory >= compiled.module.cuda_tiles_shared_bytes(  # type: ignore[union-attr]
            format, sum(units), len(dims), True, line.config.buffers
        )

    return next(line for line in TABLE if fits(line))


def by_differences(problem: Problem, sources: Sequence[Tensor]) -> bool:
    """Whether the route that takes a problem adds up squared differences, so that no common centre matters."""
    shared_memory = _shared_memory(sources[0].device)
    return isinstance(line(problem.n, tuple([x.shape[1] for x in sources]), "ieee", shared_memory).config, Small)


def _units(dims: Sequence[int]) -> list[int]:
    return [-(-d // 16) for d in dims]


def run(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    precision: str | None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    device = sources[0].device
    inputs = (*sources, *targets)
    dtype = compute_dtype(*inputs)
    if _capability(device) < TENSOR_CORES:
        precision = "ieee"  # less would lose digits and save no time
    elif precision is None:
        precision = torch_precision(device)
    format = product_format(precision, inputs, dtype)
    config = line(problem.n, tuple([x.shape[1] for x in sources]), format, _shared_memory(device)).config
    with _current(device):
        if isinstance(config, Small):
            return small(problem, sources, targets, bandwidths, needs_grad, dtype, config)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if isinstance(config, Tiles):
                return tiles(problem, sources, targets, bandwidths, needs_grad, format, config)
            return blocks(problem, sources, targets, bandwidths, needs_grad, format, config)


def small(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    dtype: torch.dtype,
    config: Small,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    extension: Any = compiled.module
    layers, device, f64 = len(sources), sources[0].device, dtype == torch.float64
    sources, targets, types = zip(*[_alike(s, t, dtype) for s, t in zip(sources, targets, strict=True)], strict=True)
    gradients = [
        torch.empty(x.shape, dtype=dtype, device=device) if need else None
        for x, need in zip((*sources, *targets), needs_grad, strict=True)
    ]
    out = [0 if g is None else g.data_ptr() for g in gradients]
    loss = torch.empty((), dtype=dtype, device=device)
    report = torch.empty(1 + 2 * layers, dtype=dtype, device=device)
    spec, bytes = _small_problem(problem, tuple([x.shape[1] for x in sources]), f64, config)
    workspace = torch.empty(bytes, dtype=torch.uint8, device=device)
    extension.cuda_small(
        spec,
        f64,
        types,
        [x.data_ptr() for x in sources],
        [x.data_ptr() for x in targets],
        [x.stride(0) for x in sources],
        [x.stride(0) for x in targets],
        out[:layers],
        out[layers:],
        0 if bandwidths is None else bandwidths.data_ptr(),
        loss.data_ptr(),
        report.data_ptr(),
        workspace.data_ptr(),
        config.part_features,
        config.chunk,
        *_queue(device),
    )
    return loss, report, gradients


@lru_cache(maxsize=256)
def _small_problem(problem: Problem, dims: tuple[int, ...], f64: bool, config: Small) -> tuple[Any, int]:
    spec = compiled.problem(problem, dims)
    return spec, compiled.module.cuda_small_workspace_bytes(spec, f64, config.part_features, config.chunk)  # type: ignore[union-attr]


def tiles(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    format: str,
    config: Tiles,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    extension: Any = compiled.module
    side = extension.CUDA_TILES_ROWS
    layers, device, dims = len(sources), sources[0].device, [x.shape[1] for x in sources]
    wanted = [source or target for source, target in zip(needs_grad[:layers], needs_grad[layers:], strict=True)]
    pooled = pooling.pool(problem, sources, targets, bandwidths, format)
    noises = _noises(problem, pooled)
    units = _units(dims)
    starts = [16 * sum(units[:layer]) for layer in range(layers)]
    width = 16 * sum(units)
    # Each domain is padded with zeros to whole tiles.
    source_tiles, target_tiles = -(-problem.n_source // side), -(-problem.n_target // side)
    count = source_tiles + target_tiles
    places = (slice(problem.n_source), slice(source_tiles * side, source_tiles * side + problem.n_target))
    packed = torch.zeros(count * side, width, dtype=_STORED.get(format, torch.float32), device=device)
    norms = torch.zeros(layers, count * side, dtype=torch.float32, device=device)
    sizes = (problem.n_source, problem.n_target)
    for layer, (start, d) in enumerate(zip(starts, dims, strict=True)):
        for place, z, norm in zip(places, pooled.z[layer].split(sizes), pooled.norms[layer].split(sizes), strict=True):
            packed[place, start : start + d] = z
            norms[layer, place] = norm
    splits = max(1, min(config.blocks // count, 8))
    shape = (splits, count * side, width)
    gradient = torch.empty(shape, dtype=torch.float32, device=device) if any(wanted) else None
    sums = torch.empty(splits * count, 3, 1 + layers, dtype=torch.float64, device=device)
    extension.cuda_tiles(
        compiled.problem(problem, tuple(dims)),
        format,
        units,
        wanted,
        packed.data_ptr(),
        norms.data_ptr(),
        pooled.bandwidths.data_ptr(),
        noises.data_ptr(),
        0 if gradient is None else gradient.data_ptr(),
        sums.data_ptr(),
        splits,
        config.buffers,
        *_queue(device),
    )
    loss, report = pooling.finish(problem, sums.sum(0), pooled.bandwidths, torch.float32)
    if gradient is None:
        return loss, report, [None] * (2 * layers)
    total = gradient[0] if splits == 1 else gradient.sum(0)
    parts = [total[place, start : start + d] for place in places for start, d in zip(starts, dims, strict=True)]
    return loss, report, [part.contiguous() if need else None for part, need in zip(parts, needs_grad, strict=True)]


def blocks(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    format: str,
    config: Blocks,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """The library multiplies in fp64, fp32 or TF32: what lies between is rounded up."""
    format = "tf32" if format in ("tf32", "bf16", "f16") else "ieee"
    with matmul_precision(sources[0].device, format):
        return _FusedPanels(problem, sources, targets, bandwidths, needs_grad, format, config).run()


class _FusedPanels(Panels):
    def __init__(
        self,
        problem: Problem,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        bandwidths: Tensor | None,
        needs_grad: Sequence[bool],
        format: str,
        config: Blocks,
    ) -> None:
        super().__init__(problem, sources, targets, bandwidths, needs_grad, format)
        self.tf32 = format == "tf32"  # row sums of C see what the library's products see
        layers, n = len(self.z), problem.n
        most = int((config.workspace_bytes / (layers * self.z[0].element_size())) ** 0.5)
        self.side = -(-n // (64 * -(-n // most))) * 64  # blocks of nearly equal size
        self.spec = compiled.problem(problem, tuple([z.shape[1] for z in self.z]))
        self.noises = _noises(problem, pooling.Rows(self.z, self.norms, self.bandwidths))
        self.workspace = torch.empty(layers, self.side, self.side, dtype=self.dtype, device=self.device)
        extension: Any = compiled.module
        self.cuda_pass = extension.cuda_pass
        programs = extension.cuda_pass_blocks(self.side, self.side)
        self.partial_sums = torch.zeros(programs, 3, 1 + layers, dtype=torch.float64, device=self.device)

    def run(self) -> tuple[Tensor, Tensor, list[Tensor | None]]:  # type: ignore[override]
        return super().run(self.side)

    def total(self) -> Tensor:
        return self.partial_sums.sum(0)

    def _pair(self, rows: slice, columns: slice) -> None:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        # Rows of a ragged block lie as far apart as a whole one's: the library needs them aligned for its fast kernels.
        inner = [buffer[: shape[0], : shape[1]] for buffer in self.workspace]
        for block, z in zip(inner, self.z, strict=True):
            torch.mm(z[rows], z[columns].T, out=block)
        self.cuda_pass(
            self.spec,
            self.dtype == torch.float64,
            [block.data_ptr() for block in inner],
            [norm.data_ptr() for norm in self.norms],
            self.with_gradient,
            self.tf32,
            self.bandwidths.data_ptr(),
            self.noises.data_ptr(),
            self.partial_sums.data_ptr(),
            *shape,
            self.side,
            rows.start,
            columns.start,
            *_queue(self.device),
        )
        for c, z, gradient in zip(inner, self.z, self.gradient, strict=True):
            if gradient is None:
                continue
            gradient[rows].addmm_(c, z[columns], alpha=4).addcmul_(c.sum(1, keepdim=True), z[rows], value=-4)
            if rows != columns:
                gradient[columns].addmm_(c.T, z[rows], alpha=4).addcmul_(c.sum(0).unsqueeze(1), z[columns], value=-4)


def _noises(problem: Problem, pooled: pooling.Rows) -> Tensor:
    """[L]: the round-off of distances that come from a product. Where a bandwidth is 0, no distance below counts."""
    epsilon = torch.finfo(pooled.z[0].dtype).eps
    means = [2 * norm.sum(dtype=torch.float64) / (problem.n - 1) for norm in pooled.norms]
    return 64 * epsilon * torch.stack(means)


def _alike(source: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Both in one dtype, as they are if possible, with unit stride along the features; and the dtype's number."""
    if source.dtype != target.dtype:
        source, target = source.to(dtype), target.to(dtype)
    return _row_major(source), _row_major(target), _TYPES[source.dtype]


def _row_major(x: Tensor) -> Tensor:
    x = x.resolve_neg()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _queue(device: torch.device) -> tuple[int, int]:
    """The device's number and torch's current stream."""
    return (0, 0) if device.type == "cpu" else (device.index, _stream(device.index))


def _public_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


# Private, and much faster: the public one makes an object.
_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _public_stream)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return (9, 0) if device.type == "cpu" else torch.cuda.get_device_capability(device)  # on the host, as on sm_90


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block of tiles can have on request, its static ones included; 0 where tiles can't run."""
    if _capability(device) < TENSOR_CORES:
        return 0
    if device.type == "cpu":
        return 227 << 10
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 99 << 10)


def _current(device: torch.device) -> AbstractContextManager[None]:
    """torch's current device must be the one that kernels are queued on."""
    here = device.type == "cpu" or device.index == torch.cuda.current_device()
    return nullcontext() if here else torch.cuda.device(device)
