"""Scribe: what the writer's thread does. It takes records from the intake to the archive and refreshes the pulse.

What the disk refuses is parked and tried again; whatever else goes wrong costs the records concerned, never the thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from fib_plugin.capture.archive import Archive, DefinitionConflict, Entry, Notice
from fib_plugin.capture.loss import REMEDIES, Loss, loss_of
from fib_plugin.capture.pulse import Pulse
from fib_plugin.capture.shard import Shard
from fib_plugin.capture.writer_intake import Intake

log = logging.getLogger("fib_plugin")

BEAT = 1.0  # seconds between refreshes of counts and status
_BATCH_RECORDS = 64
_BATCH_BYTES = 64 << 20
_POLL = 0.001  # seconds between looks at a device copy under way
_OVERDUE = 60.0  # seconds after which such a copy is given up
_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0  # seconds between passes over records that the disk refused
_GIVE_UP = 8  # failures in a row that end such a pass
_READY_AT_CLOSE = 1.0  # seconds that close waits for device copies
_AFTER_DEATH = 0.05  # seconds before the thread goes on after what should have ended it
_DEATHS = 3  # times that a record may be under way then

#: Counted by the engine's threads, which do not log.
_SILENT = (
    Loss.QUEUE_FULL,
    Loss.CLOSED,
    Loss.GRAPH_CAPTURE,
    Loss.SNAPSHOT_POOL_FULL,
    Loss.SNAPSHOT_TOO_LARGE,
    Loss.DEVICE_FULL,
)


class Scribe:
    """One process's work on one dataset; a thread that takes over from one that died goes on where that was."""

    def __init__(
        self, root: Path, intake: Intake, archive: Callable[[Notice], Archive], pulse: Callable[[Notice], Pulse]
    ) -> None:
        self.archive = archive(self._notice)
        self.beat_at = 0.0
        self._root = root
        self._intake = intake
        self._pulse = pulse(self._notice)
        self._batch: list[Entry] = []
        self._waiting: list[Entry] = []
        self._parked: deque[Entry] = deque()
        self._retry_at = 0.0
        self._retry_wait = _RETRY_FIRST
        self._told: set[str] = set()

    def run(self) -> None:
        """Until the intake is stopped and empty."""
        while True:
            try:
                self._adopt()
                self._work()
                self._finish()
                return
            except BaseException as error:  # only an exception injected into the thread comes here
                self._notice(Loss.WRITER_FAILED, error)
                time.sleep(_AFTER_DEATH)

    def _adopt(self) -> None:
        """Take over what was under way when the thread should have ended."""
        left = [entry for entry in self._batch if not entry.settled and entry not in self._parked]
        self._batch = []
        for entry in left:
            entry.deaths += 1
            entry.blob = None  # its line may be on disk already: the blob stays and is written again
            self.archive.forget(entry)
        self._drop([entry for entry in left if entry.deaths >= _DEATHS], Loss.WRITER_FAILED)
        self._waiting.extend(entry for entry in left if not entry.settled)

    def _work(self) -> None:
        while not self._intake.drained:
            try:
                self._turn()
            except Exception as error:  # one defect must not end the recording
                self._notice(Loss.WRITER_FAILED, error)
                self._drop(self._batch, Loss.WRITER_FAILED)
                self._batch = []
                time.sleep(_POLL)

    def _turn(self) -> None:
        intake = self._intake
        self._take()
        self._store(self._batch)
        self._batch = []
        if self._parked and (intake.retry_now or time.monotonic() >= self._retry_at):
            intake.retry_now = False
            self._retry_parked()
        intake.retry_now = False
        self.archive.quota.step()
        if time.monotonic() >= self.beat_at:
            self._beat()
        self._answer()

    def _take(self) -> None:
        """Fill the batch with records that may be read; wait if there is nothing to do."""
        wait = 0.0
        if not self._intake.hurried:
            until = min(self.beat_at, self._retry_at if self._parked else math.inf)
            wait = _POLL if self._waiting else until - time.monotonic()
        room = _BATCH_BYTES
        while len(self._batch) < _BATCH_RECORDS and room > 0:
            try:
                entry = self._intake.next(wait)
            except queue.Empty:
                break
            wait = 0.0
            if entry is not None:
                room -= entry.nbytes
                self._batch.append(entry)
        waiting, self._waiting = self._waiting, []
        self._batch = waiting + self._batch  # all of it, in case the thread dies meanwhile
        self._batch = self._arrived(self._batch)

    def _arrived(self, entries: list[Entry]) -> list[Entry]:
        """The entries whose device copies are done; the others wait."""
        arrived: list[Entry] = []
        for entry in entries:
            try:
                done = entry.record.ready is None or entry.record.ready()
            except Exception as error:  # whatever the device's library raises
                self._notice(Loss.DEVICE_ERROR, error)
                self._drop([entry], Loss.DEVICE_ERROR)
                continue
            if done:
                arrived.append(entry)
                continue
            now = time.monotonic()
            entry.awaited = entry.awaited or now
            if now - entry.awaited < _OVERDUE:
                self._waiting.append(entry)
            else:
                self._notice(Loss.NOT_READY, f"a copy is under way for {_OVERDUE:.0f} s")
                self._drop([entry], Loss.NOT_READY)
        return arrived

    def _store(self, entries: list[Entry]) -> None:
        """One batch to disk: all blobs, then all lines. What the disk refuses is parked."""
        staged: dict[Shard, list[Entry]] = {}
        for entry in entries:
            if len(self._parked) >= _GIVE_UP:
                # While the disk refuses, new records line up behind the parked ones instead of hitting it each time.
                self._parked.append(entry)
            else:
                self._stage(entry, staged)
        self._commit(staged)

    def _stage(self, entry: Entry, staged: dict[Shard, list[Entry]]) -> None:
        try:
            shard = self.archive.stage(entry)
        except Exception as error:  # sorted by _fail
            self._fail(entry, error)
            return
        if shard is None:
            self._intake.settle(entry, duplicate=True)
        else:
            staged.setdefault(shard, []).append(entry)

    def _commit(self, staged: dict[Shard, list[Entry]]) -> None:
        for shard, group in staged.items():
            try:
                self.archive.commit(shard, group)
            except Exception as error:  # sorted by _fail
                for entry in group:
                    self._fail(entry, error)
            else:
                for entry in group:
                    self._intake.settle(entry)

    def _fail(self, entry: Entry, error: Exception) -> None:
        """Keep the record for later if the cause is the disk's, else drop it."""
        reason = Loss.DEFINITION_CONFLICT if isinstance(error, DefinitionConflict) else loss_of(error)
        self._notice(reason, error)
        self.archive.forget(entry)
        if isinstance(error, OSError) and reason not in (Loss.BAD_RECORD, Loss.FILE_TOO_LARGE):
            if not self._parked:
                self._retry_at = time.monotonic() + self._retry_wait
            self._parked.append(entry)
            self._intake.refused_by = reason
        else:
            self._drop([entry], reason)

    def _retry_parked(self) -> None:
        """One pass over the parked records that ends early while the cause lasts.

        Failed ones go to the back: one bad folder must not keep the records of others from being tried.
        """
        failures = 0
        for _ in range(len(self._parked)):
            self._batch = [self._parked.popleft()]
            before = len(self._parked)
            staged: dict[Shard, list[Entry]] = {}
            self._stage(self._batch[0], staged)
            self._commit(staged)
            self._batch = []
            failures = failures + 1 if len(self._parked) > before else 0
            if failures == _GIVE_UP:
                break
        if self._parked:
            self._retry_wait = min(self._retry_wait * 2, _RETRY_LAST)
            self._retry_at = time.monotonic() + self._retry_wait
        else:
            log.info("capture into %s: recovered from %s", self._root, self._intake.refused_by)
            self._intake.refused_by = None
            self._retry_wait = _RETRY_FIRST

    def _beat(self, last: bool = False) -> None:
        self.beat_at = time.monotonic() + BEAT
        try:
            self.archive.sync()
        except OSError as error:
            self._notice(loss_of(error), error)
        self._pulse.beat(last)
        for reason in _SILENT:
            if self._intake.dropped(reason):
                self._tell(reason, "records were dropped")

    def _answer(self) -> None:
        asked = self._intake.answered()
        if asked:
            self._beat()
        for done in asked:
            done.set()

    def _finish(self) -> None:
        deadline = time.monotonic() + _READY_AT_CLOSE
        while self._waiting and time.monotonic() < deadline:
            time.sleep(_POLL)
            waiting, self._waiting = self._waiting, []
            self._store(self._arrived(waiting))
        self._drop(self._waiting, Loss.NOT_READY)
        if self._parked:
            self._retry_parked()
        parked, self._parked = list(self._parked), deque()
        self._drop(parked, self._intake.refused_by or Loss.CLOSED)
        self._beat(last=True)
        for done in self._intake.answered(always=True):
            done.set()

    def _drop(self, entries: list[Entry], reason: Loss) -> None:
        for entry in entries:
            if not entry.settled and entry not in self._parked:
                self.archive.forget(entry)
                self._intake.settle(entry, dropped=reason)

    def _notice(self, reason: Loss, error: object) -> None:
        """Count an error; the engine's threads never do."""
        self._intake.failed(reason)
        self._tell(reason, error)

    def _tell(self, reason: Loss, error: object) -> None:
        """One log line per reason and process: the engine's log is not ours to fill."""
        if reason not in self._told:
            self._told.add(reason)
            with contextlib.suppress(Exception):
                log.warning("capture into %s: %s: %s. Remedy: %s.", self._root, reason, error, REMEDIES[reason])
