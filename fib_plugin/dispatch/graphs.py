"""Graphs: which calls a CUDA graph holds, and how often it was replayed, since a replay runs no Python.

While a graph is captured every site call goes through ``note``; outside of captures the hot path knows nothing of it.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from fib_plugin import ops
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site

#: Of the replays of one graph, how many are looked at, the first ones and then ever fewer.
_SAMPLED = tuple(4**power for power in range(12))


class Held:
    """What one graph holds: calls by entry, and the structural inputs of its calls, which replays read anew."""

    __slots__ = ("calls", "inputs", "replays")

    def __init__(self) -> None:
        self.calls: Counter[Entry] = Counter()
        self.inputs: list[tuple[Site, dict[str, int], tuple[Any, ...]]] = []
        self.replays = 0


class Graphs:
    """All graphs of a process.

    Args:
        sites: every site of the process.
        lock: the runtime's, held while sites change.
        record: writes one call down (site, axes, inputs) without waiting for the device; None: only counts.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        lock: threading.RLock,
        record: Callable[[Site, dict[str, int], tuple[Any, ...]], None] | None,
    ) -> None:
        self._sites = sites
        self._lock = lock
        self._record = record
        self._capturing = threading.local()
        self._captures = 0
        self._held: weakref.WeakKeyDictionary[Any, Held] = weakref.WeakKeyDictionary()
        #: Calls of graphs that are gone.
        self._past: Counter[Entry] = Counter()

    def begin(self, graph: Any) -> None:
        """A capture begins on this thread."""
        with self._lock:
            self._fold(graph)
            self._capturing.held = self._held[graph] = Held()
            weakref.finalize(graph, self._keep, self._capturing.held)
            self._captures += 1
            for site in list(self._sites):
                site.hide()

    def end(self) -> None:
        """The capture of this thread ended. What was called in it did not run."""
        held = getattr(self._capturing, "held", None)
        if held is None:
            return
        with self._lock:
            self._capturing.held = None
            for entry, count in held.calls.items():
                entry.calls -= count
                trial = entry.trial
                if trial is not None and hasattr(trial, "captured"):
                    trial.captured -= count
            self._captures -= 1
            if not self._captures:
                for site in list(self._sites):
                    site.show()

    def replayed(self, graph: Any) -> None:
        """A graph was replayed, or is being: its work is on the current stream."""
        held = self._held.get(graph)
        if held is None:
            return
        held.replays += 1
        if self._record is not None and held.inputs and held.replays in _SAMPLED:
            for site, axes, inputs in held.inputs:
                self._record(site, axes, inputs)

    def busy(self) -> bool:
        """Whether any thread captures: what allocates or copies on the device would break its graph."""
        return self._captures > 0

    def known(self, site: Site, key: Hashable) -> Entry | None:
        """The entry that a capture hides, for calls of other threads meanwhile."""
        return site.hidden.get(key) if site.hidden is not None else None

    def capturing(self) -> bool:
        """Whether this thread captures a graph that ``begin`` was told of."""
        return getattr(self._capturing, "held", None) is not None

    def current(self) -> object | None:
        """What stands for the graph that this thread captures, or None."""
        return getattr(self._capturing, "held", None)

    def note(self, site: Site, key: Hashable, inputs: tuple[Any, ...], axes: dict[str, int]) -> Entry:
        """The entry of a call that goes into the graph of this thread."""
        held: Held = self._capturing.held
        entry = self.known(site, key)
        if entry is None:
            entry = site.unseen.get(key)
        if entry is None:
            entry = site.unseen[key] = Entry(axes, None, None, Reason.CAPTURING.value)
        held.calls[entry] += 1
        family = ops.family_of(site.definition)
        if self._record is not None and family is not None and family.structural:
            # Only these: a reference to an activation would keep its memory from being used again in the graph.
            named = zip(site.definition.inputs.items(), inputs, strict=True)
            kept = [value if spec.shape is None or name in family.structural else None for (name, spec), value in named]
            held.inputs.append((site, axes, tuple(kept)))
        return entry

    def replays(self) -> Counter[Entry]:
        """Calls that replays ran, by entry."""
        total = Counter(self._past)
        for held in list(self._held.values()):
            for entry, count in held.calls.items():
                if held.replays:
                    total[entry] += count * held.replays
        return total

    def forked(self, lock: threading.RLock) -> None:
        """A forked child counts its own replays; CUDA graphs do not survive a fork."""
        self._lock = lock
        self._past.clear()
        for held in list(self._held.values()):
            held.replays = 0
            held.calls.clear()

    def _fold(self, graph: Any) -> None:
        held = self._held.pop(graph, None)
        if held is not None:
            self._keep(held)

    def _keep(self, held: Held) -> None:
        for entry, count in held.calls.items():
            if held.replays:
                self._past[entry] += count * held.replays
        held.replays = 0
