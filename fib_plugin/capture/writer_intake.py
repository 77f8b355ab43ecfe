"""Intake: the bounded queue from the engine's threads to the writer's, and the counts that both keep.

The lock guards the counts and is never held while the disk is waited for.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter, deque
from typing import Any

from fib_plugin.capture.archive import Entry
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.record import Record

#: Seconds that records are gathered for; and as many records, or bytes, or a quarter of what may wait are not.
GATHER = 0.05
_MANY, _MUCH = 64, 16 << 20


class Intake:
    """What was handed over and is not on disk yet.

    Args:
        limit: records that may wait before further ones are dropped.
        limit_bytes: memory that they may hold.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.stopping = False
        #: What the disk refuses for at present: the reason to count for records that find no room.
        self.refused_by: Loss | None = None
        #: Somebody waits in `flush`: what is parked is tried again without delay.
        self.retry_now = False
        self.held = 0
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._many, self._much = min(_MANY, limit // 4), min(_MUCH, limit_bytes // 4)
        self._held_bytes = 0
        self._duplicates = 0
        self._dropped: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._flushing: list[threading.Event] = []
        self._lock = threading.Lock()
        self._records: deque[tuple[Record, int]] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: The thread has been woken, and told not to wait for more.
        self._rung = self._hurry = False

    # ---- the engine's threads -----------------------------------------------------------------------------------

    def offer(self, record: Record) -> bool:
        """Take a record if there is room; count it as dropped otherwise."""
        size = record.nbytes
        with self._lock:
            refusal = self._refusal(size)
            if refusal is not None:
                self._dropped[refusal] += 1
                return False
            self.held += 1
            self._held_bytes += size
        self._records.append((record, size))
        # What is on its way from a device holds memory that others wait for.
        if record.ready is not None or len(self._records) >= self._many or self._held_bytes >= self._much:
            if not self._hurry:
                self.wake()
        elif not self._rung:
            self._rung = True
            self._bell.put(None)
        return True

    def _refusal(self, size: int) -> Loss | None:
        if self.stopping:
            return Loss.CLOSED
        if self.held >= self._limit or (self.held and self._held_bytes + size > self._limit_bytes):
            return self.refused_by or Loss.QUEUE_FULL
        return None

    def refuse(self, reason: Loss) -> None:
        """Count a record that could not even be made."""
        with self._lock:
            self._dropped[reason] += 1

    def wake(self) -> None:
        self._hurry = True
        self._bell.put(None)

    def stop(self) -> None:
        with self._lock:
            self.stopping = True
        self.wake()

    def ask(self, done: threading.Event) -> bool:
        """Have `done` set as soon as nothing is held; False if nobody will."""
        with self._lock:
            if self.stopping:
                return False
            self._flushing.append(done)
            self.retry_now = True
        self.wake()
        return True

    def forget(self, done: threading.Event) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._flushing.remove(done)

    def counts(self) -> dict[str, Any]:
        with self._lock:
            return {
                "duplicates": self._duplicates,
                "queued": self.held,
                "dropped": {str(reason): count for reason, count in self._dropped.items()},
                "errors": {str(reason): count for reason, count in self._errors.items()},
            }

    # ---- the writer's thread ------------------------------------------------------------------------------------

    @property
    def drained(self) -> bool:
        return self.stopping and not self._records

    @property
    def hurried(self) -> bool:
        """Whether somebody waits for the thread, so that it must not sleep."""
        return self.stopping or self.retry_now or (bool(self._flushing) and not self.held)

    def next(self, wait: float) -> Entry | None:
        """The next record, or None if woken for something else; queue.Empty if there is none within `wait` seconds.

        Whoever is woken waits for more to come: a thread that wakes up for each record takes the interpreter from the
        engine just as often.
        """
        if not self._records:
            if wait <= 0:
                raise queue.Empty
            self._bell.get(timeout=wait)
            if not (self._hurry or self.hurried):
                with contextlib.suppress(queue.Empty):
                    self._bell.get(timeout=GATHER)
            self._rung = self._hurry = False
        try:
            record, size = self._records.popleft()
        except IndexError:
            return None
        return Entry(record, size)

    def settle(self, entry: Entry, dropped: Loss | None = None, duplicate: bool = False) -> None:
        """The record is on disk, or given up."""
        with self._lock:
            if entry.settled:
                return
            entry.settled = True
            self.held -= 1
            self._held_bytes -= entry.nbytes
            self._duplicates += duplicate
            if dropped is not None:
                self._dropped[dropped] += 1
        if entry.record.settled is not None:
            with contextlib.suppress(Exception):  # the record is settled whatever its maker does with the news
                entry.record.settled("" if dropped is not None else entry.uuid, dropped is None and not duplicate)

    def failed(self, reason: Loss) -> None:
        with self._lock:
            self._errors[reason] += 1

    def dropped(self, reason: Loss) -> bool:
        return self._dropped[reason] > 0

    def answered(self, always: bool = False) -> list[threading.Event]:
        """Those that asked, if nothing is held; each is returned once."""
        with self._lock:
            if self.held and not always:
                return []
            asked, self._flushing = self._flushing, []
            return asked
