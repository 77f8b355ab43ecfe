"""Turn: one side of a timing: bursts in a child by the parent's clock, and a look at what the last call returned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from fib_plugin.bench import wire
from fib_plugin.bench.case import Case
from fib_plugin.bench.seat import Seat
from fib_plugin.bench.timing import MOST_CALLS, Sample
from fib_plugin.judge import Verdict

#: Judges what was returned for a set's inputs: (outputs as described, their data, index of the set).
Check = Callable[[Sequence[wire.Output], int], Verdict]

_CHECKING_S = 0.12
#: However long the line takes, a burst does not get shorter by more than this share.
_MOST_LATENCY = 0.25
_SLOW_REFERENCE_MS = 400.0
#: Calls of a graph, as long as times are taken, and when a long burst is asked for.
_MOST_RECORDED, _MOST_EVER_RECORDED = 64, 2048


class Uncaptured(Exception):
    """A side's calls cannot be recorded into a CUDA graph; the message is its process's."""


class Turn:
    """``check`` is for solutions: their sets change between bursts, and what they return on them is judged.

    ``verdict`` is the first failed one. ``graphs``: a burst is one replay of a CUDA graph that is recorded for it.
    """

    def __init__(
        self,
        seat: Seat,
        case: Case,
        key: str,
        latency_ns: float,
        check: Check | None = None,
        toll: bool = False,
        graphs: bool = False,
    ) -> None:
        self.progress = 0.0
        self.verdict: Verdict | None = None
        self.kept = 0
        self._seat, self._case, self._key, self._toll = seat, case, key, toll
        self._latency = latency_ns
        self._check = check
        self._graphs = graphs
        self._sets = case.sets(seat.displaced)
        self._draw = np.random.default_rng()
        self._position = int(self._draw.integers(len(self._sets)))
        self._spent = 0.0
        names = list(case.definition.inputs)
        self._mutated = [index for index, name in enumerate(names) if name in case.config.mutates]
        self._on_device = seat.child.place.device != "cpu"

    @property
    def sets(self) -> int:
        return len(self._sets)

    @property
    def most(self) -> int:
        most = _MOST_RECORDED if self._graphs else MOST_CALLS
        # No set comes twice in a burst: whoever keeps an answer until the next pause would be right, and fast. With a
        # warm cache that was asked for there is one set only.
        return most if self._case.cache.repeats and not self._mutated else min(most, self.sets)

    def burst(self, calls: int) -> Sample:
        """One burst. On a GPU its time is that of the device's events, on a CPU that of the parent's clock.

        Raises:
            Uncaptured: it was to be recorded, and cannot be.
        """
        seat, start = self._seat, self._position
        if self._graphs:
            calls = min(calls, _MOST_EVER_RECORDED)
            recorded = seat.ask(wire.Record(self._key, start, calls, self._toll), wire.Recorded)
            if recorded.why:
                raise Uncaptured(recorded.why)
        used = sorted({(start + step) % self.sets for step in range(min(calls, self.sets))})
        fresh = self._renew(used)  # after the recording: what was computed beside it is of no use now
        seat.ask(wire.Ping(fresh), wire.Ready)  # it wakes up, and copies, on its own time
        waited = 0 if self._on_device else seat.child.waited_ns()
        sampled = seat.ask(wire.Burst(self._key, start, calls, self._toll, self._graphs), wire.Sampled)
        held = 0 if self._on_device else max(seat.child.waited_ns() - waited, 0)
        took = float(seat.child.took_ns)
        wall = took - min(self._latency, _MOST_LATENCY * took)
        self._position = (start + calls) % self.sets
        if self._check is not None and self._wanted(calls):
            self._look(self._check, (start + calls - 1) % self.sets)
        on_record = sampled.ns if self._on_device else wall
        return Sample(max(on_record, 1.0), sampled.ns, wall, calls, held)

    def _renew(self, used: Sequence[int]) -> list[wire.Fresh]:
        """Other contents in the sets of the next burst; what of them the child must copy to its device."""
        for index in used if self._mutated else ():
            self._sets.refill(index)
        touched = self._sets.touch(used, self._draw) if self._check is not None else [{} for _ in used]
        if not self._on_device:
            return []
        return [
            wire.Fresh(index, None if self._mutated else rows)
            for index, rows in zip(used, touched, strict=True)
            if self._mutated or rows
        ]

    def _wanted(self, calls: int) -> bool:
        if self.verdict is not None or (self._mutated and calls > self.sets):
            return False
        fewest = 1 if self._case.reference_ms > _SLOW_REFERENCE_MS else 3
        return self.kept < fewest or self._spent < _CHECKING_S * (self.progress + 0.1)

    def _look(self, check: Check, index: int) -> None:
        start = time.perf_counter()
        sets = self._sets
        sets.poison()
        kept = self._seat.ask(wire.Keep(self._key, sets.name, sets.output), wire.Kept)
        verdict = check(kept.outputs, index)
        self.kept += 1
        self._spent += time.perf_counter() - start
        if not verdict.passed:
            self.verdict = verdict
