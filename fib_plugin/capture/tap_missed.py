"""Missed: keys whose first call could not be written down, because capture was stopped or the writer was full.

The hot path asks for a record only at the first call of a key. So that it need not look again, a known key's entry is
armed from outside: its next call is shown to the recorder once, and the entry is then as it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

from fib_plugin.dispatch.site import Entry, Make, Site
from fib_plugin.dispatch.stopwatch import capturing

log = logging.getLogger("fib_plugin")

_Record = Callable[..., bool]


class Missed:
    """The keys that are to be looked at again.

    Args:
        record: Recorder.record.
    """

    def __init__(self, record: _Record) -> None:
        self.running = True
        self._record = record
        self._keys: dict[tuple[int, Hashable], tuple[Site, Hashable]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, site: Site, key: Hashable) -> None:
        """A call of this key was not written down and should have been."""
        with self._lock:
            self._keys[id(site), key] = (site, key)

    def arm(self) -> None:
        """Once a second: the next call of each key is looked at."""
        if not self.running:
            return
        with self._lock:
            waiting = list(self._keys.values())
        for site, key in waiting:
            if key in site.recorded:
                self._drop(site, key)
                continue
            entry = site.entries.get(key)
            # A solution on probation, or one being built, looks at calls itself: its entry is replaced before long.
            if entry is None or isinstance(entry.run, Look) or entry.trial is not None:
                continue
            look = Look(self, site, key, entry)
            if entry.run is None:
                entry.trial = look.aside
            else:
                entry.run = look

    def forked(self) -> None:
        """In a forked child nobody holds the lock."""
        self._lock = threading.Lock()

    def shown(self, site: Site, key: Hashable, inputs: tuple[Any, ...]) -> None:
        """One more call of the key. Never raises."""
        try:
            axes = site.definition.axis_values([getattr(value, "shape", None) for value in inputs])
            if not self._record(site.adapter, site.definition, axes, inputs, key):
                return  # armed again at the next beat
        except Exception:
            log.warning("a call of %s could not be recorded", site.definition.name, exc_info=True)
        site.recorded.add(key)
        self._drop(site, key)

    def _drop(self, site: Site, key: Hashable) -> None:
        with self._lock:
            self._keys.pop((id(site), key), None)


class Look:
    """Stands in an entry for one call."""

    __slots__ = ("_entry", "_key", "_missed", "_run", "_site")

    def __init__(self, missed: Missed, site: Site, key: Hashable, entry: Entry) -> None:
        self._missed = missed
        self._site = site
        self._key = key
        self._entry = entry
        self._run = entry.run

    def __call__(self, *inputs: Any) -> Any:
        """In place of the entry's solution."""
        run = self._run
        assert run is not None
        # Nothing may be copied into a graph that is being captured: a later call is looked at.
        if self._site.hidden is None and not capturing(inputs) and self._entry.run is not run:
            self._entry.run = run
            self._missed.shown(self._site, self._key, inputs)
        return run(*inputs)

    def aside(self, make: Make | None, args: tuple[Any, ...]) -> None:
        """As the entry's trial, before the engine's op answers. Never raises."""
        if self._site.hidden is not None or capturing(args):
            return
        self._entry.trial = None
        try:
            inputs = args if make is None else make(*args)
        except Exception:
            log.warning("a call of %s could not be recorded", self._site.definition.name, exc_info=True)
            self._site.recorded.add(self._key)
            return
        self._missed.shown(self._site, self._key, inputs)
