"""Pool: pinned host buffers of a few sizes, made once and used again. Snapshots take from it and give back.

To pin memory can make the device wait, so it is done at most once on an engine's thread (its first call, if `prepare`
has not run by then); later buffers are made by `prepare` on the writer's thread. What does not fit is refused.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: (bytes, buffers): index tensors are KiB, a large batch's are MiB. Products are powers of two, as pinning rounds up.
CLASSES = ((64 << 10, 64), (1 << 20, 16), (8 << 20, 2))
LIMIT = 256 << 20


class Slot:
    """One buffer and its flag: a byte that the device sets after the data, and that the host reads without any call."""

    __slots__ = ("_flags", "_index", "address", "data", "flag")

    def __init__(self, data: torch.Tensor, flags: torch.Tensor, raised: memoryview, index: int) -> None:
        self.data = data
        self.address = data.data_ptr()
        self.flag = flags[index : index + 1]
        self._flags = raised
        self._index = index

    @property
    def size(self) -> int:
        return self.data.numel()

    @property
    def arrived(self) -> bool:
        """Whether the last copy into the buffer is complete; True while nothing was sent."""
        return bool(self._flags[self._index])

    def lower(self) -> None:
        """Before a copy is sent."""
        self._flags[self._index] = 0


class Pool:
    """Hands out slots. Any thread may call.

    Args:
        classes: sizes of the buffers and how many there are of each.
        limit: bytes that all buffers together may reach, with those made because one was found wanting.
        pinned: False on hosts without a device.

    >>> slot = pool.take(4096)
    >>> if slot is not None: pool.give_back(slot)
    """

    def __init__(self, classes: tuple[tuple[int, int], ...] = CLASSES, limit: int = LIMIT, pinned: bool = True) -> None:
        self._classes = classes
        self._limit = limit
        self._pinned = pinned
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._free: dict[int, list[Slot]] = {}
        # Slots come back while the collector runs, maybe within `take`: that must not wait for the lock.
        self._returned: deque[Slot] = deque()
        self._bytes = 0
        self._wanted = 0
        self._refused = False

    @property
    def largest(self) -> int:
        """Bytes of the largest snapshot that fits now."""
        return max(self._free, default=0)

    @property
    def bytes(self) -> int:
        """Memory that is pinned."""
        return self._bytes

    def prepare(self) -> None:
        """Make the buffers, or one of the size that was last refused. Cheap if there is nothing to do."""
        with self._making:
            if not self._free:
                self._make(self._classes)
            wanted, self._wanted = self._wanted, 0
            if wanted:
                size = 1 << (wanted - 1).bit_length()
                if self._bytes + size <= self._limit:
                    self._make(((size, 1),))

    def take(self, size: int) -> Slot | None:
        """The smallest free buffer that holds ``size`` bytes; None when there is none."""
        if not self._free:
            self.prepare()
        with self._lock:
            while self._returned:
                slot = self._returned.popleft()
                self._free[slot.size].append(slot)
            for space in sorted(space for space in self._free if space >= size):
                slots = self._free[space]
                # A slot that was given up is no good until the copy that is under way has ended.
                at = next((at for at, slot in enumerate(slots) if slot.arrived), None)
                if at is not None:
                    return slots.pop(at)
            self._wanted = max(self._wanted, size)
            return None

    def give_back(self, slot: Slot) -> None:
        """The slot may be used again as soon as what was sent into it has arrived."""
        self._returned.append(slot)

    def _make(self, classes: tuple[tuple[int, int], ...]) -> None:
        import torch

        if self._refused:
            return
        made: list[Slot] = []
        try:
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), beside_captures():
                for size, count in classes:
                    slab = torch.empty(size * count, dtype=torch.uint8, pin_memory=self._pinned)
                    flags = torch.empty(count, dtype=torch.uint8, pin_memory=self._pinned).fill_(1)
                    numbers: Any = flags.numpy()
                    raised = memoryview(numbers)
                    made += [Slot(slab[at * size : (at + 1) * size], flags, raised, at) for at in range(count)]
        except RuntimeError:  # no more memory may be pinned: what there is must do, and asking again costs time
            self._refused = True
        with self._lock:
            for slot in made:
                self._free.setdefault(slot.size, []).append(slot)
                self._bytes += slot.size


@contextmanager
def beside_captures() -> Iterator[None]:
    """Let this thread allocate while another captures a CUDA graph, which would otherwise break that capture."""
    exchange = _exchange()
    if exchange is None:
        yield
        return
    mode = ctypes.c_int(2)  # CU_STREAM_CAPTURE_MODE_RELAXED
    exchange(ctypes.byref(mode))
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


@functools.cache
def _exchange() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
    except (OSError, AttributeError):  # no such device
        return None
