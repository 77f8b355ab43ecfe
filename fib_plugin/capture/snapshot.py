"""Snapshots: private host copies of a live call's tensors, taken without waiting for the device. For the recorder.

A tensor on a device is copied in the order of its own stream, because engines write the next step into the same buffer;
from that copy it goes to pinned memory on a side stream, followed by a flag that the writer's thread reads. No call to
the device's library is needed to see that it arrived: one that asks for an event breaks a graph that another thread
captures.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fib_plugin.capture.host_pool import HostPool
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.snapshot_pool import Pool, Slot, beside_captures

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Shot:
    """The tensors of one call in host memory that nobody else writes to; to be read once ``ready`` returns True."""

    inputs: dict[Hashable, Any]
    ready: Callable[[], bool] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor and its place in the buffer that goes to the host."""

    source: torch.Tensor
    target: torch.Tensor
    start: int
    size: int


class Lane(Protocol):
    """The way from one device to the host."""

    def pack(self, pieces: Sequence[Piece], size: int) -> torch.Tensor:
        """One buffer on the device with all pieces, as they are at this point of the current stream."""

    def send(self, stage: torch.Tensor, slot: Slot) -> None:
        """Start the copy of the buffer to the host, then of the flag."""


class Snapshots:
    """Takes snapshots.

    >>> shot = snapshots.take({"kv_indptr": kv_indptr})
    >>> if isinstance(shot, Loss): writer.refuse(shot)
    """

    def __init__(self, pool: Pool | None = None, lane: Callable[[torch.device], Lane] | None = None) -> None:
        self._pool = pool or Pool()
        self._lane = lane or StreamLane
        self._host = HostPool()
        self._lanes: dict[torch.device, Lane] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Once a second on the writer's thread: memory to copy to, pinned as soon as this process uses a device."""
        import sys

        self._host.prepare()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            self._pool.prepare()

    def take(self, tensors: Mapping[Hashable, Any]) -> Shot | Loss:
        """Copies of the tensors (or numpy arrays), those on a device still on their way; or why there are none."""
        if not tensors:
            return Shot({}, None)
        groups: dict[torch.device, list[Hashable]] = {}
        for name, tensor in tensors.items():
            if _on_device(tensor):
                groups.setdefault(tensor.device, []).append(name)
        if not groups:
            copy = self._host.copy
            return Shot({name: copy(tensor) for name, tensor in tensors.items()}, None)
        if _capturing():
            return Loss.GRAPH_CAPTURE
        import torch

        inputs: dict[Hashable, Any] = {}
        for name, tensor in tensors.items():
            if _on_device(tensor):
                inputs[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            else:
                inputs[name] = self._host.copy(tensor)
        arrivals = []
        for device, names in groups.items():
            arrival = self._start(device, [(tensors[name], inputs[name]) for name in names])
            if isinstance(arrival, Loss):
                return arrival
            arrivals.append(arrival)
        if len(arrivals) < 2:
            return Shot(inputs, arrivals[0] if arrivals else None)
        return Shot(inputs, lambda: all(arrival() for arrival in arrivals))

    def _start(self, device: torch.device, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Arrival | Loss:
        import torch

        pieces, end = [], 0
        for source, target in pairs:
            size = target.nbytes
            if size:
                pieces.append(Piece(source, target, end, size))
                end += size
        slot = self._pool.take(end)
        if slot is None:
            return Loss.SNAPSHOT_TOO_LARGE if 0 < self._pool.largest < end else Loss.SNAPSHOT_POOL_FULL
        with self._lock:
            try:
                lane = self._lanes.get(device)
                if lane is None:
                    lane = self._lanes[device] = self._lane(device)
                stage = lane.pack(pieces, end)
            except BaseException as error:
                self._pool.give_back(slot)  # nothing was sent into it yet
                if isinstance(error, torch.OutOfMemoryError):
                    return Loss.DEVICE_FULL
                raise
            # From here on the slot comes back only by its flag: after a failure it is lost rather than used twice.
            slot.lower()
            lane.send(stage, slot)
        moves = [(piece.target, piece.start, piece.size) for piece in pieces]
        return Arrival(self._pool, slot, stage, moves)


class Arrival:
    """Call it until it is True: the tensors are then where they belong and the pinned memory is free for others."""

    __slots__ = ("_moves", "_pool", "_seen", "_slot", "_stage")

    def __init__(self, pool: Pool, slot: Slot, stage: object, moves: list[tuple[torch.Tensor, int, int]]) -> None:
        self._pool = pool
        self._slot: Slot | None = slot
        self._stage = stage  # alive until it is copied
        self._moves = moves
        self._seen = False

    def __call__(self) -> bool:
        slot = self._slot
        if slot is None:
            return True
        if not slot.arrived:
            return False
        if not self._seen:
            # Data is sent before the flag, but a bus may reorder writes: what is read a look later is surely there.
            self._seen = True
            return False
        for target, start, size in self._moves:
            ctypes.memmove(target.data_ptr(), slot.address + start, size)
        self._end()
        return True

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        slot, self._slot = self._slot, None
        self._stage, self._moves = None, []
        if slot is not None:
            self._pool.give_back(slot)


class StreamLane:
    """A CUDA device's side stream; the stream that the engine uses never waits for it."""

    def __init__(self, device: torch.device) -> None:
        import torch

        cuda: Any = torch.cuda
        self._device = device
        with beside_captures():
            self._side = cuda.Stream(device)
            self._packed = cuda.Event()
            self._raised = torch.ones(1, dtype=torch.uint8, device=device)

    def pack(self, pieces: Sequence[Piece], size: int) -> torch.Tensor:
        import torch

        with beside_captures():  # memory of this stream may have to be asked of the device
            # One kernel for all: every launch costs the engine's thread some microseconds.
            return torch.cat([_bytes(piece.source) for piece in pieces] or [self._raised])

    def send(self, stage: torch.Tensor, slot: Slot) -> None:
        import torch

        cuda: Any = torch.cuda
        callers, current = cuda.current_stream(), cuda.current_stream(self._device)
        self._packed.record(current)
        self._side.wait_event(self._packed)
        cuda.set_stream(self._side)  # as the context manager does, at a third of its cost
        try:
            slot.data[: stage.numel()].copy_(stage, non_blocking=True)
            slot.flag.copy_(self._raised, non_blocking=True)
        finally:
            cuda.set_stream(current)
            cuda.set_stream(callers)  # may be on another device


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _on_device(tensor: Any) -> bool:
    return getattr(tensor, "is_cuda", False)  # an array of numpy is on the host


def _capturing() -> bool:
    """Whether this thread's current stream records a CUDA graph: nothing may be added to it."""
    import torch

    return torch.cuda.is_current_stream_capturing()
