"""Status files as engine processes leave them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fib_plugin.dataset.layout import this_host


def ended_pid() -> int:
    """A number that belonged to a process and belongs to none now."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def report(folder: Path, **changes: Any) -> Path:
    """Write the status file of a process; by default this one, running, with apply on and no calls yet."""
    now = time.time()
    content: dict[str, Any] = {
        "version": 1,
        "pid": os.getpid(),
        "host": this_host(),
        "started": now,
        "updated": now,
        "engine": {"vllm": "0.32.0"},
        "switches": {"apply": True, "tracing": False, "strict": False},
        "rank": 0,
        "ops": {},
        "targets": [],
        "quarantined": [],
        "capture": {"written": 0, "dropped": {}, "seen": 0},
        "notes": [],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['host']}.{content['pid']}.{int(content['started'] * 1000)}.json"
    path.write_text(json.dumps(content))
    return path


def op(calls: int, substituted: int = 0, solution: str | None = None, **fallbacks: int) -> dict[str, Any]:
    """What one adapter counted, all of it for one definition."""
    definition = {"calls": calls, "substituted": substituted, "solution": solution}
    return {
        "calls": calls,
        "substituted": substituted,
        "fallbacks": fallbacks,
        "definitions": {"gemm_n8_k4": definition},
    }
