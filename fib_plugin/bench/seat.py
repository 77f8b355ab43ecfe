"""Seat: a child and what it has been given: solutions loaded, blobs attached, sets prepared. The examiner owns it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from fib_plugin.bench import wire
from fib_plugin.bench.case import Case
from fib_plugin.bench.child import Child, ChildDied, owed_s
from fib_plugin.bench.sets import TimingSets
from fib_plugin.schema import Definition, Solution, content_hash, dump_line

_Reply = TypeVar("_Reply")
#: Stands in for the reference in what a solution's process is told.
_NO_REFERENCE = 'def run(*inputs):\n    raise NotImplementedError("the reference is not for solutions")\n'


class Refused(Exception):
    """The child answered that something failed."""

    def __init__(self, reply: wire.Failed) -> None:
        super().__init__(reply.log)
        self.reply = reply


class Seat:
    """``displaced``: what runs here is an engine's op, timed on sets of its own."""

    def __init__(self, child: Child, displaced: bool) -> None:
        self.child = child
        self.displaced = displaced
        self._loaded: set[str] = set()
        self._case: Case | None = None
        self._prepared = False
        self.deadline = 0.0
        self._given, self._waited = 0.0, 0

    def give(self, seconds: float) -> None:
        """So much time from now on; what its process waits for a core does not count, within bounds."""
        self.deadline = time.monotonic() + seconds
        self._given, self._waited = seconds, self.child.waited_ns()

    @property
    def left(self) -> float:
        owed = owed_s(self.child.waited_ns() - self._waited, self._given)
        return max(0.05, self.deadline + owed - time.monotonic())

    def ask(self, message: wire.Request, kind: type[_Reply]) -> _Reply:
        """The child's answer of that kind.

        Raises:
            Refused: it failed, and says how.
            ChildDied, ChildTimeout: it is gone.
        """
        return _expect(self.child.request(message, self.left), kind)

    def load(self, solution: Solution, definition: Definition, folder: Path) -> str:
        """Have it load ``solution`` as it was built in ``folder``; the key that it goes by."""
        key = content_hash(solution)
        if key not in self._loaded:
            if self.child.sandboxed:
                definition = definition.model_copy(update={"reference": _NO_REFERENCE})
            self.ask(wire.Load(key, dump_line(solution), dump_line(definition), str(folder)), wire.Ready)
            self._loaded.add(key)
        return key

    def attach(self, case: Case) -> None:
        """Hand over the memory of ``case``, and take back that of the case before."""
        if self._case is case:
            return
        self.detach()
        for name, blob in case.blobs(self.displaced).items():
            _expect(self.child.request(wire.Attach(name, blob.size), self.left, blob), wire.Ready)
        self._case = case

    def detach(self) -> None:
        """Take the memory of its case back."""
        if self._case is None:
            return
        case, self._case, self._prepared = self._case, None, False
        self.ask(wire.Prepare("", []), wire.Ready)
        for name in case.blobs(self.displaced):
            self.ask(wire.Detach(name), wire.Ready)

    def prepare(self, sets: TimingSets) -> None:
        """Have it take the sets to time on."""
        if not self._prepared:
            self.ask(wire.Prepare(sets.name, sets.layouts), wire.Ready)
            self._prepared = True


def _expect(reply: Any, kind: type[_Reply]) -> _Reply:
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, wire.Failed):
        raise Refused(reply)
    raise ChildDied(f"the process answered with {type(reply).__name__}, {kind.__name__} was expected")
