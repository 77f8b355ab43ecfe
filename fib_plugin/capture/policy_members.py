"""Members: which of a process's workloads its reservoirs hold now, in a file beside them, for those who merge."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fib_plugin.capture.files import replace
from fib_plugin.dataset import layout
from fib_plugin.dataset.reservoirs import Held, ProcessFile


class Members:
    """Writes the file of this process when there is something new to say."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.forked()

    def forked(self) -> None:
        """A file of its own for a forked child."""
        self._started = time.time()
        self._host, self._pid = layout.this_host(), os.getpid()
        self._written: dict[str, Held] = {}

    @property
    def file(self) -> Path:
        return self._root / layout.RESERVOIRS / f"{self._host}.{self._pid}.{int(self._started * 1000)}.json"

    def write(self, held: Mapping[str, Held]) -> None:
        """Brings the file up to date; OSError when the disk refuses, and then the next call tries again."""
        present = {name: one for name, one in held.items() if one.members or one.left}
        if not present or present == self._written:
            return
        content = ProcessFile(host=self._host, pid=self._pid, started=self._started, held=present)
        replace(self.file, msgspec.json.encode(content))
        self._written = present
