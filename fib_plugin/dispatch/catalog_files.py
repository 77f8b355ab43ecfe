"""What a dataset consists of right now: the files a catalog is made from, with their sizes and times.

Walked at every start of an engine process, so that a cached catalog is taken only for the very files it was made from.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout

#: A file changed within this time may change again without its time telling: clocks of file systems tick coarsely.
_TICK_NS = 20_000_000
_TRIES = 3

#: Path, size, time of the content, time of any change.
Seen = tuple[str, int, int, int]


@dataclass(slots=True)
class Files:
    """One look at a dataset. Paths are complete; hidden files and folders behind links are no data."""

    definitions: list[Seen] = field(default_factory=list)
    solutions: list[Seen] = field(default_factory=list)
    measurements: list[Seen] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def look(cls, root: Path, choices: bool) -> Files:
        """The files below ``root``; without ``choices`` those of definitions alone."""
        files = cls()
        _walk(str(root / layout.DEFINITIONS), ".json", files.definitions, files.problems)
        if choices:
            _walk(str(root / layout.SOLUTIONS), ".json", files.solutions, files.problems)
            _walk(str(root / layout.MEASUREMENTS), ".jsonl", files.measurements, files.problems)
        return files

    def digest(self) -> bytes:
        """The same for the same files in the same state."""
        seen = [sorted(group) for group in (self.definitions, self.solutions, self.measurements)]
        return hashlib.blake2b(msgspec.msgpack.encode((seen, self.problems)), digest_size=16).digest()

    def age(self) -> int:
        """Nanoseconds since the latest change; negative when a clock is ahead of ours."""
        latest = max(
            (seen[3] for group in (self.definitions, self.solutions, self.measurements) for seen in group), default=0
        )
        return time.time_ns() - latest

    def settled(self, root: Path, choices: bool) -> Files | None:
        """The files once every further change must show in their times; None when they do not come to rest."""
        files = self
        for _ in range(_TRIES):
            age = files.age()
            if abs(age) >= _TICK_NS:
                return files
            time.sleep((_TICK_NS - age) / 1e9)
            files = Files.look(root, choices)
        return None


def in_order(group: list[Seen]) -> list[Seen]:
    """Sorted folder by folder as a TraceSet reads them: of two files that claim one name the first has it."""
    return sorted(group, key=lambda seen: seen[0].replace(os.sep, "\0"))


def read(seen: Seen) -> bytes:
    """The content of a file; half the time that open() takes, since its size is known."""
    path, size = seen[:2]
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.read(fd, size + 1) if size >= 0 else b""
    finally:
        os.close(fd)
    return data if 0 <= len(data) <= size else Path(path).read_bytes()


def _walk(folder: str, suffix: str, found: list[Seen], problems: list[str]) -> None:
    folders = [folder]
    add = found.append
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if entry.is_dir():
                        if not entry.is_symlink():
                            folders.append(entry.path)
                    elif name.endswith(suffix):
                        try:
                            stat = entry.stat()
                        except OSError:  # a link that leads nowhere, or removed a moment ago
                            add((entry.path, -1, 0, 0))
                        else:
                            add((entry.path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{folder}: cannot be read: {error.strerror or error} (see its owner and mode)")
