"""Whether the process that writes a shard may still be at it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fib_plugin.dataset.layout import Shard, this_host

_OTHER_HOST_S = 600.0
"""A shard of another host counts as finished when it has not grown for this long: its process cannot be asked."""


def is_written(shard: Shard) -> bool:
    """True while the shard's process lives, as far as can be told from here."""
    try:
        changed = shard.path.stat().st_mtime
    except FileNotFoundError:
        return False
    if shard.host not in (None, this_host()):
        return time.time() - changed < _OTHER_HOST_S
    started = _started(shard.pid)
    # Numbers are used again: a process that is younger than the shard's last line is another one.
    return started is not None and started <= changed + 1.0


def _started(pid: int) -> float | None:
    """When the process started (0 where the system does not say), or None when there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return 0.0
    if state in "ZX":  # killed, and only waiting for its parent to notice
        return None
    return boot + int(rest[18]) / os.sysconf("SC_CLK_TCK")
