"""Tree: the processes that a child started, wherever they went, and an end for all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

#: Inherited by everything a child starts, so that what left its session is found.
MARK = "FIB_BENCH_MARK"
#: The lower bits of the clock id that Linux gives each process: its time on processors.
_CLOCK_OF_PROCESS = 2


def below(root: int) -> set[int]:
    """Descendants of ``root``; cheap where the kernel lists children, else a look at every process."""
    found: set[int] = set()
    todo = [root]
    while todo:
        for child in _children(todo.pop()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def running(root: int) -> set[int]:
    """Descendants of ``root`` that have not ended, stopped ones among them."""
    return {pid for pid in below(root) if state(pid) not in ("", "Z")}


def threads(pid: int) -> int:
    """How many threads ``pid`` has; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def private_bytes(pid: int) -> int:
    """Bytes of memory that ``pid`` holds for itself; input blobs are shared and not counted."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def waited_ns(pid: int) -> int:
    """Nanoseconds that the threads of ``pid`` could have run and had no core, since each began; 0 where none tells."""
    waited = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, IndexError, ValueError):  # it ended, or the kernel keeps no such record
                waited += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_bytes().split()[1])
    return waited


def state(pid: int) -> str:
    """The state letter of ``pid``; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def cpu_ns(pid: int) -> int:
    """Nanoseconds of processor time that the threads of ``pid`` took; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CLOCK_OF_PROCESS)
    except (OSError, AttributeError):
        return 0


def parent(pid: int) -> int:
    """The parent of ``pid``; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def end(root: int, mark: str, known: Iterable[int] = ()) -> None:
    """Kill ``root``, all below it, its session, and every process that carries ``mark``."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(root, signal.SIGSTOP)  # it starts no more while we look
    doomed: set[int] = set()
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        found = {pid for pid in below(root) | marked(mark) | set(known) if pid != root} - doomed
        known = ()
        if not found:
            break
        for pid in found:
            _kill(pid)
        doomed |= found
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)
    _kill(root)


def end_marked(mark: str) -> None:
    """Kill every process that carries ``mark``, until there is none."""
    deadline = time.monotonic() + 5.0
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            _kill(pid)


def marked(mark: str) -> set[int]:
    """Processes whose environment carries ``mark``."""
    needle = f"{MARK}={mark}".encode()
    found = set()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if needle in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.add(int(entry))
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except FileNotFoundError:
            if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
                return _scan(pid)
        except OSError:
            continue
    return found


def _scan(parent: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry))
    return found
