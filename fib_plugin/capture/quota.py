"""Quota: how full the dataset folder is, counted a slice at a time so that records never wait for a walk over it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fib_plugin.capture.loss import QuotaReached

_FOLDERS = ("blob", "workloads")


class Quota:
    """Bytes under blob/ and workloads/, of all processes; other processes' bytes are seen at the next walk."""

    def __init__(self, root: Path, limit: int | None, every: float = 60.0, when_full: float = 1.0) -> None:
        self.limit = limit
        self.used = 0
        self._root = root
        self._every = every
        self._when_full = when_full
        self._walk: Iterator[int] | None = None
        self._walked = 0
        self._added = 0
        self._next = 0.0

    def check(self, size: int) -> None:
        """Raise QuotaReached if `size` more bytes would be too many."""
        if self.limit is not None and self.used + size > self.limit:
            raise QuotaReached(f"{self._root} holds {self.used} bytes of {self.limit}")

    def add(self, size: int) -> None:
        """Count bytes that this process wrote."""
        self.used += size
        self._added += size

    def step(self, files: int = 2000) -> None:
        """Walk on by at most `files` files; called between batches."""
        if self.limit is None:
            return
        if self._walk is None:
            if time.monotonic() < self._next:
                return
            self._walk, self._walked, self._added = _sizes(self._root), 0, 0
        part = list(islice(self._walk, files))
        self._walked += sum(part)
        if len(part) < files:
            self._walk = None
            # Bytes written during the walk may count twice until the next one: the limit errs on the safe side.
            self.used = self._walked + self._added
            full = self.used >= self.limit * 0.9
            self._next = time.monotonic() + (self._when_full if full else self._every)


def _sizes(root: Path) -> Iterator[int]:
    folders = [str(root / name) for name in _FOLDERS]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
