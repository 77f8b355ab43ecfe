"""Pulse: the counts and status files of one process, refreshed by the writer's thread about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.capture.files import replace
from fib_plugin.capture.lineage import lineage
from fib_plugin.capture.loss import Loss, loss_of
from fib_plugin.capture.pulse_prune import EVERY, prune
from fib_plugin.dataset import layout

Snapshot = Callable[[], dict[str, Any] | None]

_HEARTBEAT = 10.0  # seconds after which the status file is written although nothing changed


class Pulse:
    """Writes what `snapshot` returns, each part only if it changed. What fails is tried again at the next beat."""

    def __init__(
        self,
        root: Path,
        status_dir: Path | None,
        host: str,
        pid: int,
        snapshot: Snapshot | None,
        notice: Callable[[Loss, object], None],
        keep_days: float = 7.0,
    ) -> None:
        self._snapshot = snapshot
        self._notice = notice
        self._lineage = lineage()
        self._identity = {"version": 1, "host": host, "pid": pid, "started": time.time()}
        name = f"{host}.{pid}.{int(time.time() * 1000)}.json"
        self._counts_file = root / layout.COUNTS / name
        self._status_file = None if status_dir is None else status_dir / name
        self._counts = b""
        self._status = b""
        self._due = 0.0
        self._host = host
        self._keep_days = keep_days
        self._prune_at = 0.0

    def beat(self, last: bool = False) -> None:
        """Refresh both files; `last` also notes in the status file that the process ended in an orderly way."""
        if self._snapshot is None:
            return
        try:
            parts = self._snapshot() or {}
        except Exception as error:  # the engine's side may be in any state
            self._notice(Loss.SNAPSHOT_FAILED, error)
            return
        for key, write in (("calls", self._write_counts), ("status", self._write_status)):
            if not parts.get(key):
                continue
            try:
                write(parts[key], last)
            except OSError as error:
                self._notice(loss_of(error), error)
            except Exception as error:  # content that JSON cannot hold
                self._notice(Loss.SNAPSHOT_FAILED, error)

    def _write_counts(self, calls: dict[str, Any], last: bool) -> None:
        data = msgspec.json.encode({**self._identity, "calls": calls})
        if data != self._counts or not self._counts_file.exists():
            replace(self._counts_file, data)
            self._counts = data

    def _write_status(self, status: dict[str, Any], last: bool) -> None:
        if self._status_file is None:
            return
        now = time.time()
        body = {key: value for key, value in status.items() if key != "updated"}
        if last:
            body["ended"] = now
        data = msgspec.json.encode(body)
        if data == self._status and time.monotonic() < self._due and self._status_file.exists():
            return
        head = {**self._identity, "lineage": self._lineage, "updated": now}
        replace(self._status_file, msgspec.json.encode({**head, **body}))
        self._status = data
        self._due = time.monotonic() + _HEARTBEAT
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + EVERY
            prune(self._status_file.parent, self._host, self._keep_days)
