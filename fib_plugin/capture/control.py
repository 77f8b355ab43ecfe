"""Control: `fib capture start|stop` on engines that run, through a file in the dataset and without a port.

Every recorder on the dataset looks at the file once a second. Without it a process records as long as tracing is on.
What an order leaves alone is counting: frequencies stay exact while nothing is written down.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from fib_plugin.dataset import layout
from fib_plugin.dataset.files import write_file
from fib_plugin.schema import SchemaError

log = logging.getLogger("fib_plugin")

FILE = f"{layout.OURS}/capture.json"
VERSION = 1


class Order(msgspec.Struct, kw_only=True, frozen=True):
    """The last thing that was asked for; the last writer wins.

    Args:
        until: when recording ends, in seconds since 1970; None: when it is stopped.
        workloads: after how many workloads of its own a process stops; None: when it is stopped.
    """

    version: int = VERSION
    id: str
    recording: bool
    since: float
    until: float | None = None
    workloads: int | None = None
    by: str = ""


def give(root: Path, recording: bool, seconds: float | None = None, workloads: int | None = None) -> Order:
    """Write the order; processes follow within about a second.

    Raises:
        OSError: the dataset cannot be written.
    """
    now = time.time()
    order = Order(
        id=secrets.token_hex(8),
        recording=recording,
        since=now,
        until=None if seconds is None else now + seconds,
        workloads=workloads,
        by=f"{layout.this_host()}.{os.getpid()}",
    )
    write_file(root / FILE, msgspec.json.encode(order))
    return order


def read(root: Path) -> Order | None:
    """The order in the dataset, if there is one.

    Raises:
        SchemaError: the file is no order.
    """
    path = root / FILE
    remedy = "remove it, or write a new one with `fib capture start` or `fib capture stop`"
    try:
        order = msgspec.json.decode(path.read_bytes(), type=Order)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise SchemaError(f"unreadable order: {error}", file=path, remedy=remedy) from error
    if order.version != VERSION:
        raise SchemaError(f"an order of version {order.version}, this reads {VERSION}", file=path, remedy=remedy)
    return order


class Control:
    """Follows the orders given to one dataset. Used by one thread.

    >>> Control(root).poll(taken=0)
    True
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / FILE
        self._signature: tuple[int, ...] | None = None
        self._order: Order | None = None
        self._base = 0
        self._over: Literal["", "time", "workloads"] = ""
        self._problem = ""
        self._started = time.time()
        self._said = ("", True)

    def poll(self, taken: int) -> bool:
        """Whether to record now. Costs one stat while nothing changes.

        Args:
            taken: workloads that this process has taken so far.
        """
        signature = self._sign()
        if signature != self._signature:
            self._read(signature, taken)
        recording = self._decide(taken)
        self._say(recording)
        return recording

    def left(self, taken: int) -> int | None:
        """How many workloads may still be taken; None: any number."""
        if self._order is None or self._order.workloads is None:
            return None
        return max(0, self._order.workloads - (taken - self._base))

    def status(self) -> dict[str, Any]:
        """For the status file."""
        order = self._order
        return {
            "dataset": str(self._root),
            "order": None if order is None else msgspec.to_builtins(order),
            "over": self._over,
            "problem": self._problem,
        }

    def forked(self) -> None:
        """A forked child counts its own workloads."""
        self._base = 0
        self._started = time.time()

    def _sign(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self, signature: tuple[int, ...] | None, taken: int) -> None:
        try:
            order = read(self._root)
        except SchemaError as error:
            # Whoever broke it did not ask for a change.
            self._signature = signature
            if not self._problem:
                log.warning("capture: %s; what was asked for before holds on", error)
            self._problem = str(error)
            return
        self._signature, self._problem = signature, ""
        if order != self._order:
            self._order, self._base, self._over = order, taken, ""

    def _decide(self, taken: int) -> bool:
        order = self._order
        if order is None:
            return True
        if not order.recording:
            return False
        if order.until is not None and order.until <= self._started:
            return True  # it was over before this process began, and meant others
        if order.until is not None and time.time() >= order.until:
            self._over = self._over or "time"
        if order.workloads is not None and taken - self._base >= order.workloads:
            self._over = self._over or "workloads"
        return not self._over

    def _say(self, recording: bool) -> None:
        order = self._order
        state = ("" if order is None else order.id, recording)
        if state == self._said or (order is None and self._said == ("", True)):
            return
        self._said = state
        if recording:
            log.info("capture into %s: recording", self._root)
            return
        why = {
            "": f"stopped by {FILE}",
            "time": f"the time that {FILE} allows is over",
            "workloads": f"the workloads that {FILE} allows are taken",
        }[self._over]
        log.info("capture into %s: %s; calls are only counted. `fib capture start` resumes it", self._root, why)
