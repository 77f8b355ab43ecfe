"""JSONL files that many processes append to: one line one record, under a lock, readable after a kill."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock


class LinesError(OSError):
    """A file could not be appended to; the message names it and says what to try."""


LOCK_TIMEOUT_S = 60.0


def lock_for(path: Path, timeout: float = LOCK_TIMEOUT_S) -> filelock.BaseFileLock:
    """The lock that guards one file: a hidden file beside it, which no reader of datasets picks up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=timeout)


def append_lines(path: Path, lines: Sequence[bytes], timeout: float = LOCK_TIMEOUT_S) -> None:
    """Append records (without newlines) as lines, all or none of them.

    When an earlier writer was killed within a line, that torn line is closed first and spoils nothing but itself.
    """
    if not lines:
        return
    for line in lines:
        if b"\n" in line:
            raise LinesError(f"{path}: a record may not contain a newline; dump it as compact JSON")
    payload = b"\n".join(lines) + b"\n"
    try:
        with lock_for(path, timeout):
            _append(path, payload)
    except filelock.Timeout as error:
        raise LinesError(
            f"{path}: another process holds its lock for more than {timeout:g} s; see whether one hangs"
        ) from error


def _append(path: Path, payload: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        if end and os.pread(fd, 1, end - 1) != b"\n":
            payload = b"\n" + payload
        try:
            rest = memoryview(payload)
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError:
            # A full disk may have taken half of it: leave no half record behind.
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number (from 1) and content of every line that is not blank. A torn last line is yielded like the others."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.strip()
            if content:
                yield number, content


def ends_torn(path: Path) -> bool:
    """Whether the file's last line has no newline: its writer was killed, or is still writing."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return False
        file.seek(end - 1)
        return file.read(1) != b"\n"
