"""Writer: takes records from the engine's threads to the disk by one thread, which also refreshes counts and status.

The engine only ever calls `submit`, which neither waits for the disk nor raises. What cannot be written is kept up to a
bound, then dropped and counted by reason. A process killed at any instant leaves whole lines that name whole blobs.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from fib_plugin.capture.archive import Archive
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.pulse import Pulse, Snapshot
from fib_plugin.capture.rank import rank_name
from fib_plugin.capture.record import RANDOM, Record
from fib_plugin.capture.writer_intake import Intake
from fib_plugin.capture.writer_thread import BEAT, Scribe
from fib_plugin.dataset.layout import this_host

__all__ = ["RANDOM", "Record", "Writer"]


class Writer:
    """Takes records and writes them under `root`.

    Args:
        root: the dataset; touched only once there is something to write.
        rank: rank of this process in the engine, part of the shard's name; None to ask the engine at the first write.
        status_dir: where the status file goes; None for none.
        snapshot: called about every second by the thread; returns {"calls": {definition: {axes key: count}},
            "status": {...}}; a part that is missing or empty is not written. After a fork it must count from zero.
        quota_bytes: size that blob/ and workloads/ may reach, all processes together; None for no limit.
        queue_limit: records that may wait for the disk before further ones are dropped.
        queue_bytes: memory that they may hold.
        status_days: days for which the status files of ended processes of this host are kept.

    >>> writer = Writer(Path("dataset"))
    >>> writer.submit(Record(definition, None, {"M": 4}, {"A": RANDOM, "B": RANDOM}))
    True
    >>> writer.close()
    """

    def __init__(
        self,
        root: Path,
        rank: int | str | None = None,
        status_dir: Path | None = None,
        snapshot: Snapshot | None = None,
        quota_bytes: int | None = 64 << 30,
        queue_limit: int = 4096,
        queue_bytes: int = 512 << 20,
        status_days: float = 7.0,
    ) -> None:
        self._root = Path(root)
        self._given_rank = rank
        self._status_dir = None if status_dir is None else Path(status_dir)
        self._snapshot = snapshot
        self._quota_bytes = quota_bytes
        self._queue_limit = queue_limit
        self._queue_bytes = queue_bytes
        self._status_days = status_days
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        """State of a process that has written nothing yet; a forked child starts from it too."""
        host, pid = this_host(), os.getpid()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running = False
        self._intake = Intake(self._queue_limit, self._queue_bytes)
        self._scribe = Scribe(
            self._root,
            self._intake,
            lambda notice: Archive(self._root, self._ask_rank, host, pid, self._quota_bytes, notice),
            lambda notice: Pulse(self._root, self._status_dir, host, pid, self._snapshot, notice, self._status_days),
        )

    def _ask_rank(self) -> str:
        return rank_name() if self._given_rank is None else str(self._given_rank)

    @property
    def rank(self) -> str:
        """As it stands in the shards' names, or would if one were made now."""
        return self._scribe.archive.rank

    def start(self) -> None:
        """Start the thread if it does not run; submit does so by itself. Never raises."""
        try:
            with self._starting:
                if self._intake.stopping or (self._thread is not None and self._thread.is_alive()):
                    return
                thread = threading.Thread(target=self._run, name="fib-writer", daemon=True)
                self._running = True
                thread.start()
                self._thread = thread
        except Exception:  # no thread can be made now; the next submit tries again
            self._thread, self._running = None, False

    def _run(self) -> None:
        scribe = self._scribe
        try:
            scribe.run()
        finally:
            if scribe is self._scribe:  # not one of before a fork
                self._running = False

    def submit(self, record: Record) -> bool:
        """Hand over a record; False if it was dropped. Neither waits for the disk nor raises."""
        try:
            taken = self._intake.offer(record)
            if taken and not self._running:
                self.start()
        except Exception:  # the engine goes on whatever is wrong with a record
            self._intake.refuse(Loss.BAD_RECORD)
            return False
        return taken

    def refuse(self, reason: Loss) -> None:
        """Count a record that could not be made; the thread says so once."""
        self._intake.refuse(reason)

    @property
    def stats(self) -> dict[str, Any]:
        """Counts so far: written, duplicates, bytes, queued; dropped and errors by reason."""
        archive = self._scribe.archive
        return {"written": archive.written, "bytes": archive.bytes, **self._intake.counts()}

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was submitted is on disk, counts and status too; False if that took too long."""
        self.start()
        done = threading.Event()
        if not self._intake.ask(done):
            return False
        if done.wait(timeout):
            return True
        self._intake.forget(done)
        return False

    def close(self, timeout: float = 5.0) -> None:
        """Write what can be written and end the thread; what the disk still refuses is counted as dropped."""
        self.start()
        self._intake.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _forked(self) -> None:
        running = self._thread is not None and not self._intake.stopping
        self._reset()
        # Many children call exec at once: give them no time to leave a status file.
        self._scribe.beat_at = time.monotonic() + BEAT
        if running:
            self.start()

    def _ending(self) -> None:
        if self._thread is not None:
            self.close(timeout=2.0)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork() -> None:
    """A child inherits memory but no thread: it gets its own files, an empty queue and a fresh thread."""
    for writer in list(_writers):
        writer._forked()


def _at_exit() -> None:
    """A courtesy for processes that end in an orderly way; nothing relies on it."""
    for writer in list(_writers):
        writer._ending()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
