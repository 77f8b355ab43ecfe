"""Blob: shared memory that carries the tensors of calls between parent and child without a copy."""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fib_plugin.bench.wire import Fresh, Layout, ScalarArg, TensorArg

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64


class Blob:
    """``size`` bytes of anonymous memory, mapped here; `descriptor` is what the other process maps."""

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = max(size, _ALIGNMENT)
        self.descriptor = _create(self.size) if descriptor is None else descriptor
        self._map = mmap.mmap(self.descriptor, self.size)

    def tensor(self, place: TensorArg) -> torch.Tensor:
        """The tensor at ``place``, as a view."""
        return view_of(self._map, place)

    def array(self, place: TensorArg, sets: int, stride: int) -> np.ndarray[Any, Any]:
        """The elements, as integers, of tensors that follow each other every ``stride`` bytes from ``place`` on.

        [sets, rows, width]: rows are those of `byte_rows`.
        """
        return array_of(self._map, place, sets, stride)

    def arguments(self, places: Sequence[TensorArg | ScalarArg]) -> list[Any]:
        """Arguments of a call: views and plain numbers."""
        return [self.tensor(place) if isinstance(place, TensorArg) else place.value for place in places]

    def close(self) -> None:
        """Give the memory back once no view uses it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        with contextlib.suppress(BufferError):  # a view is still alive; the map goes with it
            self._map.close()


def _create(size: int) -> int:
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("fib-bench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    # A child that cut the memory short would take the parent down with a bus error.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def view_of(memory: Any, place: TensorArg) -> torch.Tensor:
    """The tensor at ``place`` of any memory, as a view."""
    import torch

    dtype = getattr(torch, place.dtype)
    count = 1
    for size in place.shape:
        count *= size
    if count == 0:  # frombuffer takes no empty range
        return torch.empty(place.shape, dtype=dtype)
    # As bytes first: frombuffer does not know every type.
    flat = torch.frombuffer(memory, dtype=torch.uint8, count=count * dtype.itemsize, offset=place.offset)
    return flat.view(dtype).view(place.shape)


def byte_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor, a row for each index of its first dimension that has several."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).view(_rows(tensor.shape), -1)


def _rows(shape: Sequence[int]) -> int:
    # Where there is one row, its elements are rows.
    return next((size for size in shape if size > 1), 1)


def array_of(memory: Any, place: TensorArg, sets: int, stride: int) -> np.ndarray[Any, Any]:
    """As `Blob.array`, in any memory."""
    import torch

    item = getattr(torch, place.dtype).itemsize
    rows = _rows(place.shape)
    width = math.prod(place.shape) // rows
    return np.ndarray(
        (sets, rows, width), f"u{item}", buffer=memory, offset=place.offset, strides=(stride, width * item, item)
    )


def take_over(own: Sequence[Any], shared: Sequence[Any], fresh: Fresh) -> None:
    """Copy what has changed of the ``shared`` inputs of a set to a device's ``own``."""
    import torch

    for place, (mine, theirs) in enumerate(zip(own, shared, strict=True)):
        changed = None if fresh.rows is None else fresh.rows.get(place, [])
        if changed is None:
            if isinstance(mine, torch.Tensor):
                mine.copy_(theirs)
        elif changed:
            rows = torch.tensor(changed)
            byte_rows(mine).index_copy_(0, rows.to(mine.device), byte_rows(theirs)[rows].to(mine.device))


def plan(inputs: Sequence[Any], outputs: Sequence[tuple[Any, Sequence[int]]], start: int = 0) -> Layout:
    """Where the ``inputs`` of a call and its ``outputs`` (dtype, shape) go in a blob, from ``start``."""
    import torch

    offset = start

    def place(dtype: Any, shape: Sequence[int]) -> TensorArg:
        nonlocal offset
        spot = TensorArg(str(dtype).removeprefix("torch."), tuple(shape), offset)
        count = dtype.itemsize
        for size in shape:
            count *= size
        offset += -(-count // _ALIGNMENT) * _ALIGNMENT
        return spot

    places: list[TensorArg | ScalarArg] = [
        place(value.dtype, value.shape) if isinstance(value, torch.Tensor) else ScalarArg(value) for value in inputs
    ]
    return Layout(places, [place(dtype, shape) for dtype, shape in outputs], offset)


def fill(blob: Blob, layout: Layout, inputs: Sequence[Any]) -> None:
    """Write the ``inputs`` to their places."""
    for place, value in zip(layout.inputs, inputs, strict=True):
        if isinstance(place, TensorArg):
            blob.tensor(place).copy_(value)


def poison(blob: Blob, layout: Layout) -> None:
    """Make the outputs' places hold what no right answer is: NaN, or the largest integer."""
    for place in layout.outputs:
        spoil(blob.tensor(place))


def spoil(tensor: torch.Tensor) -> None:
    """Fill one tensor with poison."""
    import torch

    if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
        tensor.fill_(float("nan"))
    elif tensor.dtype.is_floating_point:
        tensor.view(torch.uint8).fill_(0xFF)  # NaN in e4m3fn and e5m2
    elif tensor.dtype is torch.bool:
        tensor.view(torch.uint8).fill_(1)
    else:
        tensor.fill_(torch.iinfo(tensor.dtype).max)


def changed(blob: Blob, layout: Layout, inputs: Sequence[Any]) -> list[int]:
    """Which inputs no longer hold the bytes of ``inputs``."""
    import torch

    found = []
    for index, (place, value) in enumerate(zip(layout.inputs, inputs, strict=True)):
        if isinstance(place, TensorArg) and value.numel():
            now, then = blob.tensor(place).reshape(-1), value.contiguous().reshape(-1)
            if not torch.equal(now.view(torch.uint8), then.view(torch.uint8)):
                found.append(index)
    return found
