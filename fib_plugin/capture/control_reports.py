"""What the processes on a dataset say of their capture, from their status files. For `fib capture`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.capture.lineage import lives
from fib_plugin.dataset.layout import this_host

_SILENT_S = 30.0
"""A process that cannot be asked counts as ended when its file is this old; a living one refreshes it every 10 s."""


class Report(msgspec.Struct):
    """The part of a status file that is about capture; what is missing is empty."""

    host: str
    pid: int
    updated: float
    rank: int | str = 0
    ended: float | None = None
    lineage: list[str] = []
    switches: dict[str, Any] = {}
    capture: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Whether the process still runs, as far as can be told from here."""
        if self.ended is not None:
            return False
        if self.host == this_host() and self.lineage:
            return lives(self.lineage[0])
        return time.time() - self.updated < _SILENT_S

    @property
    def tracing(self) -> bool:
        """Whether its ops are hooked for capture; an order cannot change that."""
        return bool(self.switches.get("tracing"))

    @property
    def recording(self) -> bool:
        return self.tracing and bool(self.capture.get("recording"))

    def heard(self, order: str) -> bool:
        """Whether it follows the order of this id."""
        return ((self.capture.get("order") or {}).get("id")) == order

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "host": self.host,
            "pid": self.pid,
            "rank": self.rank,
            "tracing": self.tracing,
            "recording": self.recording,
            "capture": self.capture,
        }


@dataclass(frozen=True, slots=True)
class Reports:
    """The living processes: those that trace into one dataset, and those that trace nowhere."""

    tracing: list[Report]
    hookless: list[Report]
    problems: list[str]


def read_reports(folder: Path, root: Path) -> Reports:
    """The status files in ``folder`` of processes that live and have to do with the dataset ``root``."""
    found = Reports([], [], [])
    for path in sorted(folder.glob("*.json")):
        try:
            report = msgspec.json.decode(path.read_bytes(), type=Report)
        except FileNotFoundError:
            continue
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            found.problems.append(f"{path}: {error}; remove the file")
            continue
        if not report.alive:
            continue
        if not report.tracing:
            found.hookless.append(report)
        elif Path(str(report.capture.get("dataset", ""))).resolve() == root.resolve():
            found.tracing.append(report)
    return found
