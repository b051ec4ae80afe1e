"""Modes that show on a CPU what code would do on another device: wait for it, ask it for fp64, multiply there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmmd import conditioning, dtypes
from fastmmd.precision import torch_precision

_aten = torch.ops.aten
# What a host must wait for: numbers and sizes that depend on values.
_READS = {
    _aten._local_scalar_dense,
    _aten.item,
    _aten.is_nonzero,
    _aten.equal,
    _aten.nonzero,
    _aten.masked_select,
    _aten._unique2,
    _aten.bincount,
}


class Waits(AssertionError):
    pass


class _NothingWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet, kwargs = func.overloadpacket, kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors}
        if packet in _READS and devices == {"cuda"}:
            raise Waits(f"{func}: the host reads a number")
        if packet in (_aten.index, _aten.index_put, _aten.index_put_) and any(x.dtype == torch.bool for x in tensors):
            raise Waits(f"{func}: how many elements a mask selects is known on the device alone")
        result = func(*args, **kwargs)
        devices_after = {x.device.type for x in tree_leaves(result) if isinstance(x, Tensor)}
        moved = packet in (_aten._to_copy, _aten.copy_, _aten.where) and len(devices | devices_after) > 1
        if moved or (packet == _aten.lift_fresh and "cuda" in devices_after):  # torch.tensor, torch.as_tensor
            raise Waits(f"{func}: a copy between host and device")
        return result


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Tensors on "cuda" are fake; an operation raises `Waits` if it would stop the host there (or break a CUDA
    graph)."""
    unarrived = patch.multiple(conditioning, HostCopy=_Unarrived, _capturing=lambda device: False)
    with unarrived, FakeTensorMode(), _NothingWaits():
        yield
    conditioning._by_problem.clear()  # a fake number must not be looked at
    conditioning._watch_of.cache_clear()


class _Unarrived:
    """The one copy to the host that is meant, behind the computation: it never arrives here."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def arrived(self) -> bool:
        return False


class _NoFloat64(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.dtype == torch.float64:
                raise TypeError(f"{func}: the device has no float64")
        return result


@contextmanager
def no_float64() -> Iterator[None]:
    """CPU tensors behave as on a device without fp64: whatever makes one raises."""
    with patch.object(dtypes, "_has_float64", lambda device: False), _NoFloat64():
        yield


class Product(NamedTuple):
    """a, b: operands. out: what is written. precision: what torch allows products of fp32 on a GPU."""

    name: str
    a: Tensor
    b: Tensor
    out: Tensor
    precision: str


class _Recorder(TorchDispatchMode):
    """Collects products instead of performing them: under fake tensors addmm's `out_dtype` raises in torch 2.11."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket not in (_aten.mm, _aten.addmm, _aten.addmm_):
            return func(*args, **kwargs)
        a, b = [x for x in args if isinstance(x, Tensor)][-2:]
        out: Any = kwargs.get("out", args[0])
        self.products.append(Product(str(func), a, b, out, torch_precision(torch.device("cuda"))))
        return out


@contextmanager
def recorded_products() -> Iterator[list[Product]]:
    """Tensors on "cuda" are fake; the products inside are collected."""
    with FakeTensorMode(), _Recorder() as recorder:
        yield recorder.products
