"""Referee: knows what is right for given inputs. It has a process of its own compute that, which may fail by itself.

A desk owns it. Not the parent: a reference that crashes, hangs or takes all memory would end the run; and never a
process that runs solutions: they would find the answers there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fib_plugin.bench import wire
from fib_plugin.bench.blob import Blob, fill, plan
from fib_plugin.bench.child import Child, ChildDied, ChildTimeout, Place
from fib_plugin.bench.forkserver import ServerDied
from fib_plugin.bench.host import free_bytes
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.reference import BrokenReference
from fib_plugin.schema import Definition, dump_line

if TYPE_CHECKING:
    import torch

_BLOB = "referee"
#: A process that something else killed is begun again; one that dies at the same inputs each time is the reference's.
_ATTEMPTS = 2
#: Of the memory that is free when the process starts; the rest is for the outputs, and for whoever judges.
_MEMORY_SHARE = 0.8
_QUICK_S = 30.0


class Referee:
    """Call it with inputs.

    Args:
        place: where its process works; always on the CPU.
        nursery: starts the process.
        definition: whose reference is right.
        limit_s: how long one call of the reference may take.
    """

    def __init__(self, place: Place, nursery: Nursery, definition: Definition, limit_s: float) -> None:
        self.definition = definition
        self._place = Place("cpu", place.threads, place.cache)
        self._nursery = nursery
        self._limit = limit_s
        self._child: Child | None = None
        self._blob: Blob | None = None
        self._layout: wire.Layout | None = None

    def __call__(
        self, inputs: Sequence[Any], forms: Sequence[tuple[torch.dtype, Sequence[int]]]
    ) -> tuple[list[torch.Tensor], float]:
        """What is right for ``inputs``, which are not changed, and the seconds that it took.

        Args:
            inputs: tensors on the CPU and numbers, in the definition's order.
            forms: dtype and shape of each output.

        Raises:
            BrokenReference: the reference fails, hangs, ends its process, or returns other forms; with what it printed.
            ServerDied: no process can be started here.
        """
        name = self.definition.name
        for attempt in range(_ATTEMPTS):
            try:
                return self._ask(inputs, forms)
            except ChildTimeout:
                self.close()
                raise BrokenReference(f"the reference of {name} gave no answer within {self._limit:g} s") from None
            except (ChildDied, ServerDied) as error:
                self.close()
                if attempt + 1 == _ATTEMPTS or "out of memory (limit" in str(error):
                    if isinstance(error, ServerDied):
                        raise
                    raise BrokenReference(f"the reference of {name} failed: {error}") from None
        raise AssertionError("unreachable")

    def release(self) -> None:
        """Give back the memory that inputs come in, after the last of some size."""
        if self._blob is not None:
            blob, self._blob, self._layout = self._blob, None, None
            blob.close()
            if self._child is not None and self._child.usable:
                with contextlib.suppress(ChildDied, ChildTimeout):
                    self._child.request(wire.Detach(_BLOB), _QUICK_S)

    def close(self) -> None:
        """End the process; the next call begins another one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()
        self.release()

    def _ask(
        self, inputs: Sequence[Any], forms: Sequence[tuple[torch.dtype, Sequence[int]]]
    ) -> tuple[list[torch.Tensor], float]:
        child = self._started()
        layout = plan(inputs, forms)
        if layout != self._layout or self._blob is None:
            self.release()
            self._blob, self._layout = Blob(layout.size), layout
            self._expect(child.request(wire.Attach(_BLOB, layout.size), _QUICK_S, self._blob), wire.Ready)
        fill(self._blob, layout, inputs)
        referred = self._expect(child.request(wire.Refer(_BLOB, layout), self._limit), wire.Referred)
        self._check_forms(layout, referred.outputs)
        return [self._blob.tensor(place).clone() for place in layout.outputs], referred.seconds

    def _started(self) -> Child:
        if self._child is None or not self._child.usable:
            self.close()
            memory = int(_MEMORY_SHARE * free_bytes())
            self._child = Child(self._place, self._nursery.server(), memory, role="referee")
            self._expect(self._child.request(wire.Learn(dump_line(self.definition)), self._limit), wire.Ready)
        return self._child

    def _expect(self, reply: wire.Reply, kind: type[Any]) -> Any:
        if isinstance(reply, kind):
            return reply
        if not isinstance(reply, wire.Failed):
            raise BrokenReference(f"the reference of {self.definition.name} answered with {type(reply).__name__}")
        printed = self._child.log() if self._child is not None else ""
        # Behind the traceback, where it was raised as a `BrokenReference`: it names the definition.
        said = reply.log.rpartition("BrokenReference: ")[2].strip()
        if said == reply.log.strip():
            said = f"the reference of {self.definition.name} failed: {said}"
        raise BrokenReference(f"{said}\n--- output ---\n{printed}" if printed else said)

    def _check_forms(self, layout: wire.Layout, outputs: Sequence[wire.Output]) -> None:
        for name, found, place in zip(self.definition.outputs, outputs, layout.outputs, strict=True):
            if (found.shape, found.dtype) != (place.shape, place.dtype):
                raise BrokenReference(
                    f"the reference of {self.definition.name} returns {name} as {found.shape} {found.dtype}, "
                    f"the definition says {place.shape} {place.dtype} (correct one of the two)"
                )
