"""Members: which of a process's workloads its reservoirs hold now, in a file beside them.

A shard only grows, so the workloads that a reservoir let go of are in it too. Readers that want the uniform sample keep
the members; without this file, or of definitions it does not name, everything counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fib_plugin.capture.files import replace
from fib_plugin.dataset import layout

FOLDER = f"{layout.OURS}/reservoirs"


class MembersFile(msgspec.Struct, kw_only=True):
    """Content of the file: uuids of workloads by definition."""

    version: int
    host: str
    pid: int
    started: float
    members: dict[str, list[str]]


class Members:
    """Writes the file of this process when there is something new to say."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.forked()

    def forked(self) -> None:
        """A file of its own for a forked child."""
        self._started = time.time()
        self._host, self._pid = layout.this_host(), os.getpid()
        self._written: dict[str, list[str]] = {}

    @property
    def file(self) -> Path:
        return self._root / FOLDER / f"{self._host}.{self._pid}.{int(self._started * 1000)}.json"

    def write(self, members: Mapping[str, list[str]]) -> None:
        """Brings the file up to date; OSError when the disk refuses, and then the next call tries again."""
        present = {name: uuids for name, uuids in members.items() if uuids}
        if not present or present == self._written:
            return
        content = MembersFile(version=1, host=self._host, pid=self._pid, started=self._started, members=present)
        replace(self.file, msgspec.json.encode(content))
        self._written = present
