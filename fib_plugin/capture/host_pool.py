"""HostPool: private copies of host tensors in memory that was used before, since fresh pages cost more than the copy.

A copy is made by the calling thread alone, without letting go of the interpreter: torch's own copies wait for helpers
to wake and for the interpreter to come back. The memory is used again when nothing can read the copy any more.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Copies of fewer bytes come from the allocator, which has small pieces at hand.
SMALLEST = 16 << 10
#: Bytes that are kept for use again.
LIMIT = 64 << 20
#: Of each size that was asked for, the bytes and the pieces that are made ready ahead.
_READY_BYTES, _READY = 8 << 20, 32


class HostPool:
    """Makes the copies. Any thread may call.

    >>> copy = HostPool().copy(kv_indices)
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._bytes = 0
        #: By size, memory that nobody uses. Copies end wherever their last reader is, maybe within `copy`: no lock.
        self._free: dict[int, deque[memoryview]] = {}
        #: Sizes that had to be made while the caller waited.
        self._short: set[int] = set()
        self._lent: dict[int, tuple[weakref.ref[Any], memoryview]] = {}

    def copy(self, tensor: Any) -> Any:
        """A contiguous copy of a host tensor, or of a numpy array, of the same kind."""
        import numpy

        if type(tensor) is numpy.ndarray:
            return tensor.copy()
        kind = _kinds().get(tensor.dtype)
        size = tensor.nbytes
        if kind is None or not size or not tensor.is_cpu or tensor.requires_grad:
            return _by_torch(tensor)
        like, lacking = kind
        contiguous = tensor.is_contiguous()
        if lacking and not contiguous:
            return _by_torch(tensor)
        if size < SMALLEST and not lacking:
            return _torch().from_numpy(tensor.numpy().copy())
        array = self._array(size, like)
        shape = tensor.shape
        if len(shape) != 1:
            array = array.reshape(shape)
        made = _torch().from_numpy(array)
        if contiguous:
            _move()(made.data_ptr(), tensor.data_ptr(), size)
        else:
            numpy.copyto(array, tensor.numpy())
        return made.view(tensor.dtype) if lacking else made

    def prepare(self) -> None:
        """On the writer's thread, once a second: memory at hand for the sizes that copies had to wait for.

        Its pages are written to here: where the caller does that, the system takes longer to find them than it takes
        to copy.
        """
        while self._short:
            space = self._short.pop()
            free = self._free.setdefault(space, deque())
            for _ in range(min(_READY, max(1, _READY_BYTES // space)) - len(free)):
                if self._bytes + space > self._limit:
                    return
                fresh = self._fresh(space)
                ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(fresh)), 0, space)
                free.append(fresh)

    def _array(self, size: int, dtype: Any) -> Any:
        """One dimension of ``size`` bytes; its memory comes back when the array and all views of it are gone."""
        import numpy

        if size < SMALLEST:
            return numpy.empty(size // dtype.itemsize, dtype)
        space = 1 << (size - 1).bit_length()
        try:
            buffer = self._free[space].pop()
        except (KeyError, IndexError):
            self._short.add(space)
            if self._bytes + space > self._limit:
                return numpy.empty(size // dtype.itemsize, dtype)
            buffer = self._fresh(space)
            self._free.setdefault(space, deque())
        # Of a memoryview, not of an array: numpy's views refer to the first owner and would outlive what is watched.
        lent = numpy.frombuffer(buffer, dtype, size // dtype.itemsize)
        watch = weakref.ref(lent, self._back)
        self._lent[id(watch)] = (watch, buffer)
        return lent

    def _fresh(self, space: int) -> memoryview:
        import numpy

        self._bytes += space
        fresh: Any = numpy.empty(space, numpy.uint8)
        return memoryview(fresh)

    def _back(self, watch: Any) -> None:
        _, buffer = self._lent.pop(id(watch))
        self._free[buffer.nbytes].append(buffer)


@functools.cache
def _kinds() -> dict[Any, tuple[Any, bool]]:
    """torch dtype -> numpy dtype of the same width, and whether numpy lacks the torch one."""
    import numpy
    import torch

    own = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    kinds = {getattr(torch, name): (numpy.dtype(name), False) for name in own}
    lacking = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
    kinds |= {getattr(torch, name): (numpy.dtype(like), True) for name, like in lacking.items() if hasattr(torch, name)}
    return kinds


@functools.cache
def _move() -> Any:
    """memmove that keeps the interpreter: ctypes' own gives it away."""
    move = ctypes.PyDLL(None).memmove
    move.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    move.restype = ctypes.c_void_p
    return move


@functools.cache
def _torch() -> Any:
    """The module, for a tenth of what an import statement takes."""
    import torch

    return torch


def _by_torch(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
