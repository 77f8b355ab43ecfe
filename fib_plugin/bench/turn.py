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
#: Bursts of any length that are looked at, at least.
_FEWEST_PROBES, _FEWEST_SLOW_PROBES = 6, 2
#: What a process may do before a burst: answer, and nothing that is a part of the burst's work.
_LEAST_BETWEEN_NS, _LATENCIES, _MOST_BETWEEN = 200_000.0, 4.0, 0.2
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
        self._probes = 0
        #: Of each burst: CPU time that its process took just before, and how long it took; nanoseconds.
        self._between: list[tuple[float, float]] = []
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

        Now and then another one comes before it or after it, of any length, to be looked at: those on record are of
        about one length, and with calls that are never the last one whoever makes them could spare himself the work.

        Raises:
            Uncaptured: it was to be recorded, and cannot be.
        """
        chance = int(self._draw.integers(4))
        if chance == 0:
            self._probe(calls)
        sample = self._run(calls)
        if self._check is not None and self._wanted(calls):
            self._look(self._check, self._position - 1)
        if chance == 1:
            self._probe(calls)
        return sample

    def works_between(self) -> str:
        """What the child's process does before it is asked to call anything, in words; empty where that is next to
        nothing. Inputs are new then: whoever has threads of his own could answer them before the clock runs."""
        if self._on_device or not self._between:
            return ""
        between, bursts = (float(np.median(one)) for one in zip(*self._between, strict=True))
        if between < max(_LEAST_BETWEEN_NS, _LATENCIES * self._latency, _MOST_BETWEEN * bursts):
            return ""
        return f"its process works for {between / 1e3:.0f} us before a burst that takes {bursts / 1e3:.0f} us"

    def _probe(self, calls: int) -> None:
        fewest = _FEWEST_PROBES if self._case.reference_ms <= _SLOW_REFERENCE_MS else _FEWEST_SLOW_PROBES
        wanted = self.verdict is None and (self._probes < fewest or self._spent < self._allowed)
        if self._check is not None and calls > 1 and wanted:
            self._probes += 1
            self._run(int(self._draw.integers(1, calls)))
            self._look(self._check, self._position - 1)

    def _run(self, calls: int) -> Sample:
        seat, start = self._seat, self._position
        if self._graphs:
            calls = min(calls, _MOST_EVER_RECORDED)
            recorded = seat.ask(wire.Record(self._key, start, calls, self._toll), wire.Recorded)
            if recorded.why:
                raise Uncaptured(recorded.why)
        used = sorted({(start + step) % self.sets for step in range(min(calls, self.sets))})
        fresh = self._renew(used)  # after the recording: what was computed beside it is of no use now
        spent = 0 if self._on_device else seat.child.cpu_ns()
        seat.ask(wire.Ping(fresh), wire.Ready)  # it wakes up, and copies, on its own time
        spent = 0 if self._on_device else seat.child.cpu_ns() - spent
        waited = 0 if self._on_device else seat.child.waited_ns()
        sampled = seat.ask(wire.Burst(self._key, start, calls, self._toll, self._graphs), wire.Sampled)
        held = 0 if self._on_device else max(seat.child.waited_ns() - waited, 0)
        took = float(seat.child.took_ns)
        wall = took - min(self._latency, _MOST_LATENCY * took)
        self._position = (start + calls) % self.sets
        self._between.append((float(spent), wall))
        on_record = sampled.ns if self._on_device else wall
        return Sample(max(on_record, 1.0), sampled.ns, wall, calls, held)

    def _renew(self, used: Sequence[int]) -> list[wire.Fresh]:
        """Other contents in the sets of the next burst; what of them the child must copy to its device."""
        for index in used if self._mutated else ():
            self._sets.refill(index)
        # The displaced op's keep their contents, which are written again: what was just written is quick to read.
        touched = self._sets.touch(used, self._draw, swap=self._check is not None)
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
        return self.kept < fewest or self._spent < self._allowed

    @property
    def _allowed(self) -> float:
        return _CHECKING_S * (self.progress + 0.1)

    def _look(self, check: Check, index: int) -> None:
        start = time.perf_counter()
        sets = self._sets
        index %= self.sets
        sets.poison()
        kept = self._seat.ask(wire.Keep(self._key, sets.name, sets.output), wire.Kept)
        verdict = check(kept.outputs, index)
        self.kept += 1
        self._spent += time.perf_counter() - start
        if not verdict.passed:
            self.verdict = verdict
