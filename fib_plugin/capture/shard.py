"""Shard: the append-only workload file that one process has for one definition. Used by the writer's thread only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from fib_plugin.capture.files import write_all


class Shard:
    """Appends whole lines. The file is opened for each batch, so that a folder that was removed or replaced is noticed.

    >>> shard = Shard(root / "workloads/gemm/gemm_n8_k4.rank0.host-17.jsonl")
    >>> shard.append([b'{"definition": ...}'])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: What is on disk or about to be: digest -> uuid.
        self.seen: dict[bytes, str] = {}
        self.vanished = False
        self._written = False
        self._dirty = False

    def append(self, lines: Iterable[bytes]) -> int:
        """Write the lines, each by one os.write; returns the bytes written. After an OSError the file is as before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags)
        except FileNotFoundError:
            self.vanished, self._written = self._written, False
            fd = os.open(self.path, flags | os.O_CREAT, 0o666)
        try:
            # Two containers may share host name and process id; the lock makes their lines and repairs take turns.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                size = _write_lines(fd, lines)
            finally:
                # A child forked meanwhile has the same file open: closing ours would leave the lock with it.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)
        self._written = self._dirty = True
        return size

    def sync(self) -> None:
        """Make what was appended survive a power cut; does nothing when there is nothing new."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_lines(fd: int, lines: Iterable[bytes]) -> int:
    start = _end_of_last_line(fd)
    size = 0
    try:
        for line in lines:
            write_all(fd, line + b"\n")
            size += len(line) + 1
    except OSError:
        os.ftruncate(fd, start)
        raise
    return size


def _end_of_last_line(fd: int) -> int:
    """Cut off a last line without a newline, which a writer killed while writing left behind; the size after that."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    position = size
    while position > 0:
        step = min(position, 65536)
        position -= step
        newline = os.pread(fd, step, position).rfind(b"\n")
        if newline >= 0:
            position += newline + 1
            break
    os.ftruncate(fd, position)
    return position
