"""Seating: which child runs what. Each solution has its own, sandboxed; an engine's op runs where it is trusted.

The examiner asks it for seats and has it drop those that failed.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from fib_plugin.bench.case import Case
from fib_plugin.bench.child import Child, Place
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.seat import Seat
from fib_plugin.build.shipped import is_shipped
from fib_plugin.schema import Definition, Solution, content_hash

#: Children that wait for their solution's next workload; more would hold memory of the host for nothing.
_MOST_SEATS = 4
#: Ops that keep a packed copy of every weight they ever saw make a child grow; past this it starts anew.
_MOST_RESIDENT = 4 << 30
_TRUSTED = "trusted"


class Seating:
    """Children of one place. The trusted one is shared by all ops that installed adapters ship."""

    def __init__(self, place: Place, nursery: Nursery) -> None:
        self._place = place
        self._nursery = nursery
        self._seats: OrderedDict[tuple[str, bool], Seat] = OrderedDict()
        self._case: Case | None = None
        #: Protections that this host lacks, in words.
        self.notes: tuple[str, ...] = ()

    def seat(self, solution: Solution, definition: Definition, displaced: bool, folder: Path) -> Seat:
        """The seat of ``solution``, which is built in ``folder``. ``displaced``: it is an engine's op."""
        trusted = displaced and is_shipped(solution, definition)
        key = (_TRUSTED if trusted else content_hash(solution), displaced)
        seat = self._seats.get(key)
        if seat is not None and not seat.child.usable:
            self.drop(seat)
            seat = None
        if seat is None:
            seat = self._seats[key] = Seat(self._child(trusted, folder), displaced)
        self._seats.move_to_end(key)
        waiting = [other for other in self._seats if other[0] != _TRUSTED]
        for other in waiting[:-_MOST_SEATS]:
            self.drop(self._seats[other])
        return seat

    def enter(self, case: Case) -> None:
        """Have all children forget the case before, and end those that grew too large on it."""
        if self._case is case:
            return
        self._case = case
        for seat in list(self._seats.values()):
            if not seat.child.usable or seat.child.resident() > _MOST_RESIDENT:
                self.drop(seat)
                continue
            seat.give(10.0)
            try:
                seat.detach()
            except Exception:
                self.drop(seat)

    def drop(self, seat: Seat) -> None:
        """End a child; whoever asks for its seat again gets a fresh one."""
        seat.child.close()
        self._seats = OrderedDict((key, other) for key, other in self._seats.items() if other is not seat)

    def close(self) -> None:
        """End all of them."""
        for seat in list(self._seats.values()):
            self.drop(seat)

    def _child(self, trusted: bool, folder: Path) -> Child:
        if trusted:
            return Child(self._place, None)
        return Child(self._place, self._nursery.server(), readable=[folder])
