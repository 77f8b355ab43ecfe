"""Serving: what processes that run the plugin report about themselves, read from their status files and summed up.

Beside it the quarantine of their host, which outlives them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fib_plugin.capture.loss import REMEDIES as CAPTURE_REMEDIES
from fib_plugin.dataset.layout import this_host
from fib_plugin.dispatch.quarantine import Quarantine
from fib_plugin.dispatch.reason import REMEDIES

_SILENT_S = 30.0
"""A process of another host counts as ended when its file is this old; a living one refreshes it every 10 s."""


class _Definition(msgspec.Struct):
    calls: int = 0
    substituted: int = 0
    solution: str | None = None


class _Op(msgspec.Struct):
    calls: int = 0
    substituted: int = 0
    fallbacks: dict[str, int] = {}
    definitions: dict[str, _Definition] = {}


class _Capture(msgspec.Struct):
    written: int = 0
    seen: int = 0
    dropped: dict[str, int] = {}
    errors: dict[str, int] = {}


class _Status(msgspec.Struct):
    """A status file. Fields that a newer plugin added are ignored, missing ones are empty."""

    version: int
    pid: int
    host: str
    started: float
    updated: float
    ended: float | None = None
    engine: dict[str, str] = {}
    switches: dict[str, Any] = {}
    rank: int | str = 0
    ops: dict[str, _Op] = {}
    targets: list[dict[str, Any]] = []
    quarantined: list[dict[str, Any]] = []
    capture: _Capture = msgspec.field(default_factory=_Capture)
    notes: list[str] = []


@dataclass(frozen=True, slots=True)
class Process:
    """One process that ran the plugin, as of its last report."""

    status: _Status
    alive: bool

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        s = self.status
        return {
            "host": s.host,
            "pid": s.pid,
            "state": "running" if self.alive else "ended",
            "started": s.started,
            "updated": s.updated,
            "rank": s.rank,
            "engine": s.engine,
            "switches": s.switches,
        }


@dataclass(slots=True)
class OpSum:
    """One adapter's calls over all processes."""

    calls: int = 0
    substituted: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, op: _Op) -> None:
        """Add what one process counted."""
        self.calls += op.calls
        self.substituted += op.substituted
        self.fallbacks.update(op.fallbacks)
        for name, definition in op.definitions.items():
            total = self.definitions.setdefault(name, {"calls": 0, "substituted": 0, "solutions": []})
            total["calls"] += definition.calls
            total["substituted"] += definition.substituted
            if definition.solution is not None and definition.solution not in total["solutions"]:
                total["solutions"].append(definition.solution)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "calls": self.calls,
            "substituted": self.substituted,
            "fallbacks": dict(self.fallbacks.most_common()),
            "definitions": self.definitions,
        }


@dataclass(slots=True)
class Serving:
    """The sums over some processes."""

    processes: list[Process]
    hidden: int = 0
    problems: list[str] = field(default_factory=list)
    ops: dict[str, OpSum] = field(default_factory=dict)
    targets: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    """each solution once; `on_disk` says whether later processes honour it, too"""
    capture: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def fallbacks(self) -> Counter[str]:
        """Calls by the reason for which the engine's own op answered them."""
        total: Counter[str] = Counter()
        for op in self.ops.values():
            total.update(op.fallbacks)
        return total

    @property
    def substituted(self) -> int:
        return sum(op.substituted for op in self.ops.values())

    @property
    def calls(self) -> int:
        return sum(op.calls for op in self.ops.values())

    @property
    def warnings(self) -> list[str]:
        """Switches with which wrong or slow solutions may run."""
        if any(process.status.switches.get("any_hardware") for process in self.processes):
            return [
                "FIB_APPLY_ANY_HARDWARE=1: measurements of other hardware and versions decide what runs; unset it to "
                "go by this machine's own"
            ]
        return []

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "processes": [process.to_dict() for process in self.processes],
            "hidden": self.hidden,
            "calls": self.calls,
            "substituted": self.substituted,
            "ops": {name: op.to_dict() for name, op in sorted(self.ops.items())},
            "reasons": [
                {"reason": reason, "calls": calls, "remedy": REMEDIES.get(reason, "")}
                for reason, calls in self.fallbacks.most_common()
            ],
            "quarantined": self.quarantined,
            "capture": self.capture,
            "targets": self.targets,
            "notes": self.notes,
            "warnings": self.warnings,
            "explanation": explain(self),
            "problems": self.problems,
        }


def read_serving(folder: Path, every: bool = False, quarantine: Path | None = None) -> Serving:
    """Sum up the status files in a folder: those of the latest run, or of every run; and the records in quarantine.

    A run is what lived at the same time: the running processes and those that ended beside them; if none runs, the
    process that ended last and those beside it.
    """
    processes: list[Process] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            status = msgspec.json.decode(path.read_bytes(), type=_Status)
        except FileNotFoundError:
            continue
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            problems.append(f"{path}: {error}; remove the file")
            continue
        processes.append(Process(status, _is_alive(status)))
    processes.sort(key=lambda process: (process.status.started, process.status.pid))
    chosen = processes if every else _latest_run(processes)
    serving = Serving(chosen, hidden=len(processes) - len(chosen), problems=problems)
    if quarantine is not None:
        kept = Quarantine(quarantine)
        serving.quarantined += [{**msgspec.to_builtins(record), "on_disk": True} for record in kept.records()]
        problems += [str(problem) for problem in kept.problems]
    _sum_up(serving)
    return serving


def explain(serving: Serving) -> list[str]:
    """Why nothing was substituted, most frequent reason first, each with its remedy. Empty if something was."""
    if not serving.processes:
        return [
            "no process has reported: set FIB_ENABLE_APPLY=1 or FIB_ENABLE_TRACING=1 and start the engine as always"
        ]
    if serving.substituted:
        return []
    if not serving.calls:
        return ["no call of an op that an adapter knows was seen yet; `fib doctor` shows which hooks were found"]
    lines = []
    if not any(process.status.switches.get("apply") for process in serving.processes):
        lines.append(f"apply is off: {REMEDIES.get('apply_off', 'set FIB_ENABLE_APPLY=1')}")
    for reason, calls in serving.fallbacks.most_common():
        if reason != "apply_off":
            lines.append(f"{reason} ({calls:,} calls): {REMEDIES.get(reason, 'see the log')}")
    return lines


def capture_remedy(reason: str) -> str:
    """What to do about records that were dropped or delayed for a reason."""
    return CAPTURE_REMEDIES.get(reason, "see the log")


def _latest_run(processes: Sequence[Process]) -> list[Process]:
    if not processes:
        return []
    alive = [process for process in processes if process.alive]
    latest = max(processes, key=lambda process: process.status.updated)
    start = min((process.status.started for process in alive), default=latest.status.started)
    # Processes of one run overlap; each that does may reach further back, and what it overlaps belongs to the run too.
    while True:
        run = [process for process in processes if process.alive or process.status.updated >= start]
        earliest = min(process.status.started for process in run)
        if earliest >= start:
            return run
        start = earliest


def _sum_up(serving: Serving) -> None:
    dropped: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for process in serving.processes:
        status = process.status
        for name, op in status.ops.items():
            serving.ops.setdefault(name, OpSum()).add(op)
        _extend(serving.targets, status.targets)
        for entry in status.quarantined:
            if not any(_same_solution(entry, known) for known in serving.quarantined):
                serving.quarantined.append({**entry, "on_disk": False})
        _extend(serving.notes, status.notes)
        dropped.update(status.capture.dropped)
        errors.update(status.capture.errors)
    serving.capture = {
        "seen": sum(process.status.capture.seen for process in serving.processes),
        "written": sum(process.status.capture.written for process in serving.processes),
        "dropped": dict(dropped.most_common()),
        "errors": dict(errors.most_common()),
    }


def _extend(known: list[Any], more: Iterable[Any]) -> None:
    known.extend(item for item in more if item not in known)


def _same_solution(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a.get("hash") and b.get("hash"):
        return bool(a["hash"] == b["hash"])
    return all(a.get(name) == b.get(name) for name in ("solution", "definition"))


def _is_alive(status: _Status) -> bool:
    if status.ended is not None:
        return False
    if status.host != this_host():
        return time.time() - status.updated < _SILENT_S
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    # Numbers are used again: a process that is younger than the report is another one.
    born = _born(status.pid)
    return born is None or born <= status.started + 1.0


def _born(pid: int) -> float | None:
    """When a process was started, or None where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
