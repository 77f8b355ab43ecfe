"""Runs plans once each in another process, which may hang or fault without taking this one along; gpu_tune.py calls it.

The other process prints a line when it is up, then one for each plan as soon as it ran: {"plan": problem or null}.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Callable
from typing import Any

#: Exit status of a process that named the plan after which its device is of no more use.
FAULTED = 3
#: Seconds that it may take to start, and to run a plan.
START_S, ONCE_S = 90.0, 20.0


def trial(plans: list[str], command: Callable[[list[str]], list[str]]) -> dict[str, str]:
    """Plan -> problem, for those that hung, faulted or were wrong; the others go on in a new process.

    Args:
        command: the process that runs these plans, in this order.
    """
    problems: dict[str, str] = {}
    left = list(plans)
    while left:
        process = subprocess.Popen(command(left), stdout=subprocess.PIPE, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        patience = START_S
        while left:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                problems[left.pop(0)] = f"ran for {patience:.0f} s"
                break
            if line is None:
                status = process.wait()
                if status != FAULTED:
                    problems[left.pop(0)] = f"died with status {status}"
                break
            patience = ONCE_S
            if line.startswith("{"):
                (problem,) = json.loads(line).values()
                plan = left.pop(0)
                if problem:
                    problems[plan] = problem
        process.kill()
        process.wait()
    return problems


def _pump(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    stream.close()
    lines.put(None)
