"""Snapshots of live calls: the runtime calls ``record`` once for each new (definition, size)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fib_plugin import ops
from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.schema import Definition, Solution

if TYPE_CHECKING:
    import torch


class Recorder:
    """Copies what a workload must hold and hands it to the writer; never waits for the device or the disk."""

    def __init__(self, writer: Writer, displaced: Callable[[str, Definition], Solution | None]) -> None:
        self.writer = writer
        self._displaced = displaced

    def record(self, adapter: str, definition: Definition, axes: dict[str, int], inputs: tuple[Any, ...]) -> None:
        """Notes one call: structural inputs and scalars by value, the other tensors by shape."""
        family = ops.family_of(definition)
        structural = family.structural if family is not None else ()
        values: dict[str, Any] = {}
        pending: list[Any] = []
        for (name, spec), value in zip(definition.inputs.items(), inputs, strict=True):
            if spec.shape is None:
                values[name] = value if isinstance(value, (bool, int)) else float(value)
            elif name in structural:
                values[name] = _snapshot(value, pending)
            else:
                values[name] = RANDOM
        ready = pending[-1].query if pending else None
        displaced = self._displaced(adapter, definition)
        self.writer.submit(Record(definition=definition, displaced=displaced, axes=axes, inputs=values, ready=ready))


def _snapshot(tensor: torch.Tensor, pending: list[Any]) -> torch.Tensor:
    """A private host copy; from a GPU through pinned memory, complete once the event in ``pending`` has passed."""
    import torch

    if not tensor.is_cuda:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    host.copy_(tensor.detach(), non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    pending.append(event)
    return host
