"""Writer: the one thread that takes records from the engine's threads to the disk, and refreshes counts and status.

The engine only ever calls `submit`, which neither waits for the disk nor raises. What cannot be written is kept up to a
bound, then dropped and counted by reason. A process killed at any instant leaves whole lines that name whole blobs.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections import Counter, deque
from pathlib import Path
from typing import Any

from fib_plugin.capture.archive import Archive, DefinitionConflict, Entry
from fib_plugin.capture.loss import REMEDIES, Loss, loss_of
from fib_plugin.capture.pulse import Pulse, Snapshot
from fib_plugin.capture.record import RANDOM, Record
from fib_plugin.capture.shard import Shard
from fib_plugin.dataset.layout import this_host

__all__ = ["RANDOM", "Record", "Writer"]

log = logging.getLogger("fib_plugin")

_BATCH_RECORDS = 64
_BATCH_BYTES = 64 << 20
_POLL = 0.001  # seconds between looks at a device copy under way
_BEAT = 1.0  # seconds between refreshes of counts and status
_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0  # seconds between passes over records that the disk refused
_GIVE_UP = 8  # failures in a row that end such a pass
_READY_AT_CLOSE = 1.0  # seconds that close waits for device copies


class Writer:
    """Takes records and writes them under `root`.

    Args:
        root: the dataset; touched only once there is something to write.
        rank: rank of this process in the engine, part of the shard's name.
        status_dir: where the status file goes; None for none.
        snapshot: called about every second by the thread; returns {"calls": {definition: {axes key: count}},
            "status": {...}}; a part that is missing or empty is not written. After a fork it must count from zero.
        quota_bytes: size that blob/ and workloads/ may reach, all processes together; None for no limit.
        queue_limit: records that may wait for the disk before further ones are dropped.
        queue_bytes: memory that they may hold.

    >>> writer = Writer(Path("dataset"))
    >>> writer.submit(Record(definition, None, {"M": 4}, {"A": RANDOM, "B": RANDOM}))
    True
    >>> writer.close()
    """

    def __init__(
        self,
        root: Path,
        rank: int = 0,
        status_dir: Path | None = None,
        snapshot: Snapshot | None = None,
        quota_bytes: int | None = 64 << 30,
        queue_limit: int = 4096,
        queue_bytes: int = 512 << 20,
    ) -> None:
        self._root = Path(root)
        self._rank = rank
        self._status_dir = None if status_dir is None else Path(status_dir)
        self._snapshot = snapshot
        self._quota_bytes = quota_bytes
        self._queue_limit = queue_limit
        self._queue_bytes = queue_bytes
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        """State of a process that has written nothing yet; a forked child starts from it too."""
        host, pid = this_host(), os.getpid()
        # Shared with the engine's threads. The lock guards the counts and is never held while the disk is waited for.
        # A SimpleQueue wakes the thread at half the price of a Condition; None in it only wakes.
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._held = 0
        self._held_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._flushing: list[threading.Event] = []
        self._retry_now = False
        self._stop = False
        self._thread: threading.Thread | None = None
        self._refused_by: Loss | None = None
        # The thread's own.
        self._batch: list[Entry] = []
        self._waiting: list[Entry] = []
        self._parked: deque[Entry] = deque()
        self._retry_at = 0.0
        self._retry_wait = _RETRY_FIRST
        self._beat_at = 0.0
        self._told: set[str] = set()
        self._errors: Counter[str] = Counter()
        self._duplicates = 0
        self._archive = Archive(self._root, self._rank, host, pid, self._quota_bytes, self._notice)
        self._pulse = Pulse(self._root, self._status_dir, host, pid, self._snapshot, self._notice)

    # ---- called by the engine's threads -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread if it does not run; submit does so by itself. Never raises."""
        try:
            with self._lock:
                if self._stop or (self._thread is not None and self._thread.is_alive()):
                    return
                thread = threading.Thread(target=self._run, name="fib-writer", daemon=True)
                thread.start()
                self._thread = thread
        except Exception:  # no thread can be made now; the next submit tries again
            self._thread = None

    def submit(self, record: Record) -> bool:
        """Hand over a record; False if it was dropped. Neither waits for the disk nor raises."""
        try:
            entry = Entry(record, record.nbytes)
            with self._lock:
                refusal = self._refusal(entry)
                if refusal is not None:
                    self._dropped[refusal] += 1
                    return False
                self._held += 1
                self._held_bytes += entry.nbytes
            self._queue.put(entry)
            thread = self._thread
            if thread is None or not thread.is_alive():
                self.start()
        except Exception:  # the engine goes on whatever is wrong with a record
            with self._lock:
                self._dropped[Loss.BAD_RECORD] += 1
            return False
        return True

    def _refusal(self, entry: Entry) -> Loss | None:
        if self._stop:
            return Loss.CLOSED
        if self._held >= self._queue_limit or (self._held and self._held_bytes + entry.nbytes > self._queue_bytes):
            return self._refused_by or Loss.QUEUE_FULL
        return None

    @property
    def stats(self) -> dict[str, Any]:
        """Counts so far: written, duplicates, bytes, queued; dropped and errors by reason."""
        with self._lock:
            return {
                "written": self._archive.written,
                "duplicates": self._duplicates,
                "bytes": self._archive.bytes,
                "queued": self._held,
                "dropped": {str(reason): count for reason, count in self._dropped.items()},
                "errors": {str(reason): count for reason, count in self._errors.items()},
            }

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was submitted is on disk, counts and status too; False if that took too long."""
        self.start()
        done = threading.Event()
        with self._lock:
            if self._stop:
                return False
            self._flushing.append(done)
            self._retry_now = True
        self._queue.put(None)
        if done.wait(timeout):
            return True
        with self._lock, contextlib.suppress(ValueError):
            self._flushing.remove(done)
        return False

    def close(self, timeout: float = 5.0) -> None:
        """Write what can be written and end the thread; what the disk still refuses is counted as dropped."""
        self.start()
        with self._lock:
            self._stop = True
            thread = self._thread
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # ---- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._adopt()
            while not (self._stop and self._queue.empty()):
                try:
                    self._turn()
                except Exception as error:  # one defect must not end the recording
                    self._notice(Loss.WRITER_FAILED, error)
                    self._drop(self._batch, Loss.WRITER_FAILED)
                    self._batch = []
                    time.sleep(_POLL)
            self._finish()
        except BaseException as error:  # only an exception injected into the thread comes here
            self._notice(Loss.WRITER_FAILED, error)

    def _adopt(self) -> None:
        """Take over what a thread that died was working on."""
        left = [entry for entry in self._batch if not entry.settled]
        for entry in left:
            self._archive.forget(entry)
        self._waiting.extend(left)
        self._batch = []

    def _turn(self) -> None:
        self._take()
        self._store(self._batch)
        self._batch = []
        if self._parked and (self._retry_now or time.monotonic() >= self._retry_at):
            self._retry_now = False
            self._retry_parked()
        self._retry_now = False
        self._archive.quota.step()
        if time.monotonic() >= self._beat_at:
            self._beat()
        if self._flushing and not self._held:
            self._answer()

    def _take(self) -> None:
        """Fill the batch with records that may be read; wait if there is nothing to do."""
        wait = 0.0
        if not (self._stop or self._retry_now or (self._flushing and not self._held)):
            until = min(self._beat_at, self._retry_at if self._parked else math.inf)
            wait = _POLL if self._waiting else until - time.monotonic()
        room = _BATCH_BYTES
        while len(self._batch) < _BATCH_RECORDS and room > 0:
            try:
                entry = self._queue.get(wait > 0, max(wait, 0))
            except queue.Empty:
                break
            wait = 0.0
            if entry is not None:
                room -= entry.nbytes
                self._batch.append(entry)
        waiting, self._waiting = self._waiting, []
        self._batch = self._arrived(waiting) + self._arrived(self._batch)

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
            (arrived if done else self._waiting).append(entry)
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
            shard = self._archive.stage(entry)
        except Exception as error:  # sorted by _fail
            self._fail(entry, error)
            return
        if shard is None:
            self._duplicates += 1
            self._settle(entry)
        else:
            staged.setdefault(shard, []).append(entry)

    def _commit(self, staged: dict[Shard, list[Entry]]) -> None:
        for shard, group in staged.items():
            try:
                self._archive.commit(shard, group)
            except Exception as error:  # sorted by _fail
                for entry in group:
                    self._fail(entry, error)
            else:
                for entry in group:
                    self._settle(entry)

    def _fail(self, entry: Entry, error: Exception) -> None:
        """Keep the record for later if the cause is the disk's, else drop it."""
        reason = Loss.DEFINITION_CONFLICT if isinstance(error, DefinitionConflict) else loss_of(error)
        self._notice(reason, error)
        self._archive.forget(entry)
        if isinstance(error, OSError) and reason is not Loss.BAD_RECORD:
            if not self._parked:
                self._retry_at = time.monotonic() + self._retry_wait
            self._parked.append(entry)
            self._refused_by = reason
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
            log.info("capture into %s: recovered from %s", self._root, self._refused_by)
            self._refused_by = None
            self._retry_wait = _RETRY_FIRST

    def _beat(self, last: bool = False) -> None:
        self._beat_at = time.monotonic() + _BEAT
        try:
            self._archive.sync()
        except OSError as error:
            self._notice(loss_of(error), error)
        self._pulse.beat(last)
        for reason in (Loss.QUEUE_FULL, Loss.CLOSED):
            if self._dropped[reason]:
                self._tell(reason, "records were dropped")

    def _answer(self) -> None:
        with self._lock:
            if self._held:
                return
            flushing, self._flushing = self._flushing, []
        self._beat()
        for done in flushing:
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
        self._drop(parked, self._refused_by or Loss.CLOSED)
        self._beat(last=True)
        with self._lock:
            flushing, self._flushing = self._flushing, []
        for done in flushing:
            done.set()

    # ---- bookkeeping --------------------------------------------------------------------------------------------

    def _settle(self, entry: Entry) -> None:
        with self._lock:
            if not entry.settled:
                entry.settled = True
                self._held -= 1
                self._held_bytes -= entry.nbytes

    def _drop(self, entries: list[Entry], reason: Loss) -> None:
        for entry in entries:
            if entry.settled or entry in self._parked:
                continue
            self._archive.forget(entry)
            self._settle(entry)
            with self._lock:
                self._dropped[reason] += 1

    def _notice(self, reason: Loss, error: object) -> None:
        """Count an error; the thread calls this, never the engine."""
        with self._lock:
            self._errors[reason] += 1
        self._tell(reason, error)

    def _tell(self, reason: Loss, error: object) -> None:
        """One log line per reason and process: the engine's log is not ours to fill."""
        if reason not in self._told:
            self._told.add(reason)
            with contextlib.suppress(Exception):
                log.warning("capture into %s: %s: %s. Remedy: %s.", self._root, reason, error, REMEDIES[reason])


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork() -> None:
    """A child inherits memory but no thread: it gets its own files, an empty queue and a fresh thread."""
    for writer in list(_writers):
        running = writer._thread is not None and not writer._stop
        writer._reset()
        # Many children call exec at once: give them no time to leave a status file.
        writer._beat_at = time.monotonic() + _BEAT
        if running:
            writer.start()


def _at_exit() -> None:
    """A courtesy for processes that end in an orderly way; nothing relies on it."""
    for writer in list(_writers):
        if writer._thread is not None:
            writer.close(timeout=2.0)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
