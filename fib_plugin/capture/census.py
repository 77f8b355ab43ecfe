"""Census: the processes of one engine and what they counted, added up; no count ever goes back. For metrics.py.

This process is asked itself; its descendants, living or ended, through the status files that Pulse writes.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.capture.lineage import identity, lives
from fib_plugin.dataset.layout import this_host

#: (counter, labels in the counter's order): one series of /metrics.
Series = tuple[str, ...]


class _Definition(msgspec.Struct):
    substituted: int = 0
    solution: str | None = None
    fallbacks: dict[str, int] = {}


class _Op(msgspec.Struct):
    fallbacks: dict[str, int] = {}
    definitions: dict[str, _Definition] = {}


class _Capture(msgspec.Struct):
    written: int = 0
    duplicates: int = 0
    bytes: int = 0
    queued: int = 0
    dropped: dict[str, int] = {}
    errors: dict[str, int] = {}


class _Report(msgspec.Struct):
    """The part of a status that is counted here; a field that is missing is empty."""

    lineage: list[str] = []
    ended: float | None = None
    engine: dict[str, str] = {}
    switches: dict[str, Any] = {}
    ops: dict[str, _Op] = {}
    quarantined: list[dict[str, Any]] = []
    capture: _Capture = msgspec.field(default_factory=_Capture)


@dataclass(slots=True)
class Totals:
    """The sums: counters over all processes, the rest over those that live."""

    counts: Counter[Series] = field(default_factory=Counter)
    processes: int = 0
    solutions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    quarantined: set[str] = field(default_factory=set)
    queued: int = 0
    engine: dict[str, str] = field(default_factory=dict)
    switches: dict[str, Any] = field(default_factory=dict)


class _Member:
    """One process: its latest report and the highest counts it ever gave."""

    __slots__ = ("counts", "report", "stamp")

    def __init__(self) -> None:
        self.stamp: tuple[int, int] | None = None
        self.report = _Report()
        self.counts: dict[Series, int] = {}

    def update(self, report: _Report) -> None:
        """A call in flight may be counted and taken back: for a reader a count that falls is a restart."""
        self.report = report
        for series, count in _counts(report):
            self.counts[series] = max(count, self.counts.get(series, 0))


class Census:
    """Adds up one engine.

    Args:
        folder: the status files.
        status: what this process counts.
        root: identity of the process that all others descend from; this one if not given.
    """

    def __init__(self, folder: Path, status: Callable[[], dict[str, Any]], root: str | None = None) -> None:
        self._folder = folder
        self._status = status
        self._root = root
        self._host = this_host()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._self = identity(self._pid)
        self._lock = threading.Lock()
        self._own = _Member()
        self._members: dict[str, _Member] = {}
        self._strangers: set[str] = set()

    def read(self) -> Totals:
        """The sums as of now; descendants report about once a second."""
        if self._pid != os.getpid():
            self._begin()  # a forked child is another process, with children of its own
        with self._lock:
            self._own.update(_decode(msgspec.json.encode(self._status())))
            self._look()
            living = [member.report for member in self._members.values() if _lives(member.report)]
            totals = _sum_up([self._own.report, *living])
            for member in (self._own, *self._members.values()):
                totals.counts.update(member.counts)
            return totals

    def _look(self) -> None:
        """Reads the files that changed. What was counted stays when a file is gone."""
        try:
            entries = list(os.scandir(self._folder))
        except OSError:
            return
        for entry in entries:
            name = entry.name
            if name in self._strangers or not (name.startswith(f"{self._host}.") and name.endswith(".json")):
                continue
            try:
                self._take(name, entry)
            except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
                continue  # `fib status` names files that cannot be read

    def _take(self, name: str, entry: os.DirEntry[str]) -> None:
        known = self._members.get(name)
        found = entry.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if known is not None and known.stamp == stamp:
            return
        report = _decode(Path(entry.path).read_bytes())
        if known is None and not self._belongs(report):
            self._strangers.add(name)
            return
        member = self._members.setdefault(name, _Member())
        member.update(report)
        member.stamp = stamp

    def _belongs(self, report: _Report) -> bool:
        if (self._root or self._self) not in report.lineage:
            return False
        # This process answers for itself, but not for what it counted before the plugin was last enabled.
        return report.lineage[0] != self._self or report.ended is not None


def _decode(data: bytes) -> _Report:
    return msgspec.json.decode(data, type=_Report)


def _lives(report: _Report) -> bool:
    return report.ended is None and lives(report.lineage[0])


def _counts(report: _Report) -> Iterable[tuple[Series, int]]:
    for op, total in report.ops.items():
        elsewhere = Counter(total.fallbacks)
        for name, definition in total.definitions.items():
            yield ("calls", op, name, "substituted", ""), definition.substituted
            for reason, count in definition.fallbacks.items():
                yield ("calls", op, name, "fallback", reason), count
                elsewhere[reason] -= count
        # Calls that no definition expresses.
        for reason, count in elsewhere.items():
            if count > 0:
                yield ("calls", op, "", "fallback", reason), count
    capture = report.capture
    yield ("capture_records", "written", ""), capture.written
    yield ("capture_records", "duplicate", ""), capture.duplicates
    for reason, count in capture.dropped.items():
        yield ("capture_records", "dropped", reason), count
    for reason, count in capture.errors.items():
        yield ("capture_errors", reason), count
    yield ("capture_bytes",), capture.bytes


def _sum_up(reports: list[_Report]) -> Totals:
    totals = Totals(engine=reports[0].engine, switches=reports[0].switches)
    for report in reports:
        totals.processes += bool(report.ops)
        for op, total in report.ops.items():
            running = {definition.solution for definition in total.definitions.values()}
            totals.solutions[op].update(name for name in running if name is not None)
        totals.quarantined.update(str(record.get("solution")) for record in report.quarantined)
        totals.queued += report.capture.queued
    return totals
