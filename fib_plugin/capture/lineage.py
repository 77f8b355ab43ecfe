"""Lineage: which process descends from which. The status file carries it, Census reads it.

A process is named by its number and its start in clock ticks since boot: a number that is used again, or the number 1
of another container, is another process. Needs /proc; without it nothing is known of any process.
"""

from __future__ import annotations

import os
from pathlib import Path

_ENDED = ("Z", "X", "x")


def identity(pid: int) -> str | None:
    """``pid.start`` of a living process; None if there is none of that number or the system does not say.

    >>> identity(os.getpid())
    '4711.998877'
    """
    found = _stat(pid)
    return None if found is None else f"{pid}.{found[1]}"


def lineage() -> list[str]:
    """This process and its ancestors, nearest first."""
    line: list[str] = []
    pid = os.getpid()
    while pid > 0 and (found := _stat(pid)) is not None:
        line.append(f"{pid}.{found[1]}")
        pid = found[0]
    return line


def lives(name: str) -> bool:
    """Whether the process that ``identity`` gave this name still runs."""
    pid = name.partition(".")[0]
    return pid.isdecimal() and identity(int(pid)) == name


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent, start) of a process that has not ended."""
    try:
        # The second field is the command in parentheses, which may hold anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in _ENDED else (int(fields[1]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None
