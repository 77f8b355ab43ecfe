"""Quarantine: solutions that failed in an engine of this host, on disk. The guard adds and asks, `fib trust` clears.

One JSON file for each content hash and device. The first record of a hash is kept, since it tells of the failure that
put the solution out; further failures are counted in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import filelock
import msgspec

from fib_plugin.dataset.files import write_file
from fib_plugin.dataset.layout import this_host
from fib_plugin.dataset.lines import LOCK_TIMEOUT_S, lock_for
from fib_plugin.schema import SchemaError

logger = logging.getLogger("fib_plugin")

#: The folder's name within FIB_CACHE_PATH.
FOLDER = "quarantine"

#: An engine waits this long for its turn to write: the call that failed waits with it.
_PATIENCE_S = 2.0

#: File times tick this coarsely at worst: what changes within one tick of a reading does not change the folder's time.
_TICK_S = 2.0

_SAFE = re.compile(r"[A-Za-z0-9_]+")
_LONGEST = 20_000


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Why the content of one hash is out on one device."""

    solution: str
    definition: str
    hash: str
    """schema.content_hash"""
    reason: str
    """value of a dispatch.reason.Reason"""
    axes: dict[str, int] = {}
    detail: str = ""
    traceback: str = ""
    hardware: str
    host: str = msgspec.field(default_factory=this_host)
    pid: int = msgspec.field(default_factory=os.getpid)
    timestamp: str = msgspec.field(default_factory=_now)
    failures: int = 1
    """how often the content failed, this record's failure included"""


_decoder = msgspec.json.Decoder(Record)


@dataclass(frozen=True, slots=True)
class _Reading:
    """The folder as it was read."""

    stat: tuple[int, int] | None = None
    first_seen: float = 0.0
    """when this stat was seen first; local time, since a server's clock may differ"""
    settled: bool = False
    """whether nothing can have changed since without changing the stat"""
    records: tuple[Record, ...] = ()
    problems: tuple[SchemaError, ...] = ()
    current: dict[str, dict[str, Record]] = field(default_factory=dict)


class Quarantine:
    """The records in one folder, shared by the processes that use it.

    Args:
        folder: FIB_CACHE_PATH/quarantine; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reading = _Reading()
        self._said: set[str] = set()

    def add(self, record: Record) -> bool:
        """Write a record down. Never raises: False, and one line in the log, when it cannot be written."""
        try:
            if not record.hash:
                raise ValueError("it has no content hash")
            path = self.folder / _file_name(record)
            with lock_for(path.with_name("all"), _PATIENCE_S):
                known = _read(path)
                kept = _writable(record) if known is None else _again(known)
                write_file(path, msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
            return True
        except Exception as error:
            self._say(
                "write",
                f"quarantine: {self.folder}: {record.solution} could not be recorded, other processes may run it: "
                f"{type(error).__name__}: {error} (see the folder's owner and mode, or set FIB_CACHE_PATH)",
            )
            return False

    def current(self, hardware: str) -> dict[str, Record]:
        """Content hash -> record, of this device only: what fails on one may work on another. Never raises.

        While nothing changes this costs one stat, and the same dictionary comes back; it is not the caller's to change.
        """
        reading = self._read()
        known = reading.current.get(hardware)
        if known is None:
            known = {record.hash: record for record in reading.records if record.hardware == hardware}
            reading.current[hardware] = known
        return known

    def records(self) -> list[Record]:
        """Those of every device, oldest first."""
        return sorted(self._read().records, key=lambda record: (record.timestamp, record.hash))

    @property
    def problems(self) -> list[SchemaError]:
        """Files that could not be read; the records in them are not honoured."""
        return list(self._read().problems)

    def clear(self, hashes: Collection[str]) -> list[Record]:
        """Let content of these hashes run again, on every device; what was known about it, damaged files included.

        Raises:
            SchemaError: a record cannot be removed.
        """
        wanted = {_safe(one): one for one in hashes}
        cleared = []
        try:
            if not self.folder.is_dir():
                return []
            with lock_for(self.folder / "all", LOCK_TIMEOUT_S):
                for path in _files(self.folder):
                    hash = wanted.get(path.name.partition("-")[0])
                    if hash is None:
                        continue
                    try:
                        known = _read(path)
                    except OSError:
                        known = None
                    path.unlink()
                    unreadable = Record(
                        solution="?", definition="?", hash=hash, reason="?", detail="an unreadable record", hardware="?"
                    )
                    cleared.append(known or unreadable)
        except filelock.Timeout as error:
            raise SchemaError(
                f"another process holds its lock for more than {LOCK_TIMEOUT_S:g} s",
                file=self.folder,
                remedy="see whether one hangs",
            ) from error
        except OSError as error:
            raise SchemaError(
                f"a record cannot be removed: {error}", file=self.folder, remedy="see the folder's owner and mode"
            ) from error
        return cleared

    def _read(self) -> _Reading:
        # Several threads may be here at once: each makes a reading of its own, and the last one is kept.
        last = self._reading
        now = time.monotonic()
        try:
            stat = self.folder.stat()
        except FileNotFoundError:
            if last.stat is not None:
                self._reading = _Reading()
            return self._reading
        except OSError as error:
            return self._unreadable(error)
        mark = (stat.st_mtime_ns, stat.st_ino)
        if mark == last.stat and last.settled:
            return last
        first_seen = last.first_seen if mark == last.stat else now
        records, problems = [], []
        try:
            for path in _files(self.folder):
                try:
                    records.append(_decoder.decode(path.read_bytes()))
                except FileNotFoundError:
                    continue
                except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
                    problems.append(
                        SchemaError(
                            f"unreadable quarantine record, not honoured: {error}",
                            file=path,
                            remedy="remove the file; the solution is recorded again if it fails again",
                        )
                    )
        except OSError as error:
            return self._unreadable(error)
        for problem in problems:
            self._say(str(problem.file), f"quarantine: {problem}")
        self._reading = _Reading(mark, first_seen, now - first_seen >= _TICK_S, tuple(records), tuple(problems))
        return self._reading

    def _unreadable(self, error: OSError) -> _Reading:
        problem = SchemaError(
            f"cannot be read, no record is honoured: {error.strerror or error}",
            file=self.folder,
            remedy="see its owner and mode, or set FIB_CACHE_PATH",
        )
        self._say("read", f"quarantine: {problem}")
        self._reading = _Reading(problems=(problem,))
        return self._reading

    def _say(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            logger.warning("%s", text)


def _files(folder: Path) -> list[Path]:
    names = [name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _file_name(record: Record) -> str:
    device = hashlib.sha256(record.hardware.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_safe(record.hash)}-{device}.json"


def _safe(hash: str) -> str:
    """As part of a file name: a content hash is; anything else is hashed."""
    if _SAFE.fullmatch(hash) and len(hash) <= 64:
        return hash
    return hashlib.sha256(hash.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> Record | None:
    """The record at ``path``; None when there is none, or none that can be read."""
    try:
        return _decoder.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _again(known: Record) -> Record:
    return msgspec.structs.replace(known, failures=known.failures + 1)


def _writable(record: Record) -> Record:
    """Error texts may be long, and hold what UTF-8 cannot; axes may be of a tensor library's own integer type."""
    clean = {
        name: value[-_LONGEST:].encode("utf-8", "backslashreplace").decode()
        for name in record.__struct_fields__
        if isinstance(value := getattr(record, name), str)
    }
    axes = {str(axis): int(size) for axis, size in record.axes.items()}
    return msgspec.structs.replace(record, **clean, axes=axes)
