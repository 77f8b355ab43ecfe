"""Prune: takes away the status files of this host's processes that ended long ago. For Pulse, which writes them.

Whatever is not named as Pulse names its files, or is another host's, is left alone; so is what belongs to a running
engine, because whoever asks that engine wants its ended workers too.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fib_plugin.capture.lineage import lives

EVERY = 6 * 3600.0
MOST = 512
_DAY = 86400.0
_HALF_WRITTEN_S = 3600.0


class _Head(msgspec.Struct):
    lineage: list[str] = []


def prune(folder: Path, host: str, days: float, most: int = MOST) -> int:
    """Remove files of processes that ended more than `days` ago, and the oldest ones beyond `most`; how many."""
    own = re.compile(rf"{re.escape(host)}\.\d+\.\d+\.json")
    now, removed = time.time(), 0
    found: list[tuple[float, Path, list[str]]] = []
    for path, changed in _files(folder):
        if path.name.startswith(f".{host}.") and path.name.endswith(".tmp"):
            if now - changed > _HALF_WRITTEN_S:  # its process was killed while it wrote
                removed += _remove(path)
            continue
        if own.fullmatch(path.name):
            found.append((changed, path, _lineage(path)))
    found.sort(reverse=True)
    # A shell that started an engine lives on for long, so only processes that write files here count as its ancestors.
    running = {line[0] for _, _, line in found if line and lives(line[0])}
    kept = 0
    for changed, path, line in found:
        if (kept < most and now - changed < days * _DAY) or not running.isdisjoint(line):
            kept += 1
        else:
            removed += _remove(path)
    return removed


def _files(folder: Path) -> Iterator[tuple[Path, float]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield Path(entry.path), entry.stat().st_mtime


def _lineage(path: Path) -> list[str]:
    """The process and its ancestors; empty for a file that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Head).lineage
    except (OSError, ValueError):  # MsgspecError and text that is no UTF-8 are ValueErrors
        return []


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
