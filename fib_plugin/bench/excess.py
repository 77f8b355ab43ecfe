"""Excess: whether a child takes too much of its host. The kernel's limits do not count processes of root, nor files.

`fib_plugin.bench.child` asks while the child has something to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from fib_plugin.bench import tree

#: What torch and an engine's libraries hold before any solution is read.
_BASE_BYTES = 4 << 30
#: A compiler's driver starts a handful; a pool of threads per library is normal on a large host.
_MOST_PROCESSES = 32
_MOST_THREADS = 4096
#: Of files in its scratch folder. Compilers' caches are hundreds of MB.
_MOST_FILE_BYTES = 8 << 30


class Excess:
    """Limits of the process ``pid`` and all below it: ``memory`` bytes, files in ``scratch``, processes, threads."""

    def __init__(self, pid: int, memory: int, scratch: Path) -> None:
        self._pid, self._memory, self._scratch = pid, memory, scratch
        self._free = _free(scratch)
        #: Every process that was seen below it.
        self.seen: set[int] = set()

    def cause(self) -> str:
        """What there is too much of, in words; empty while there is not."""
        others = tree.below(self._pid)
        self.seen |= others
        if len(others) > _MOST_PROCESSES:
            return f"it started {len(others)} processes (limit {_MOST_PROCESSES})"
        count = sum(map(tree.threads, others)) + tree.threads(self._pid)
        if count > _MOST_THREADS:
            return f"it started {count} threads (limit {_MOST_THREADS})"
        held = sum(map(tree.private_bytes, others)) + tree.private_bytes(self._pid)
        if held > self._memory + _BASE_BYTES:
            return f"out of memory (limit {self._memory / (1 << 30):.1f} GiB)"
        # Files are counted only when as much is missing on their disk: that costs one call.
        if self._free - _free(self._scratch) > _MOST_FILE_BYTES and _size(self._scratch) > _MOST_FILE_BYTES:
            return f"it wrote more than {_MOST_FILE_BYTES / (1 << 30):.1f} GiB of files"
        return ""


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _size(folder: Path) -> int:
    """Bytes that the files below ``folder`` take on disk."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total
