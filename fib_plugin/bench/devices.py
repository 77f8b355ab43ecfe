"""Devices: a thread a device pulls tasks from a queue, one reader takes what they find as they find it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Task = TypeVar("Task")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Seat(Generic[Task, Found]):
    """One device at work.

    Args:
        start: makes what does a task there; called in the device's own thread.
        waiting: tasks that it takes from, most urgent first; devices of one kind share them.
        close: ends what the device is at, and frees it; called from the reader's thread.
    """

    start: Callable[[], Callable[[Task], Iterator[Found]]]
    waiting: deque[Task]
    close: Callable[[], None]


class GaveUp(Exception):
    """Raised by a seat's work that cannot go on; its tasks are left to the other seats."""


def host_devices() -> list[str]:
    """What torch sees here: each CUDA device by number, one without a number, or the CPU."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{index}" for index in range(count)] if count > 1 else ["cuda"] if count else ["cpu"]


def missing_devices(names: Sequence[str]) -> list[str]:
    """Those of ``names`` that this host does not have."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = {"cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))}
    return [name for name in names if name not in known]


def spread(seats: Sequence[Seat[Task, Found]]) -> Iterator[Found]:
    """Do every task once, on whichever device is free; what is found comes out in the order in which it is found.

    A task that raises stops all, and its exception comes out here. So does leaving the iteration early.
    """
    found: queue.SimpleQueue[tuple[str, Found | BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def serve(seat: Seat[Task, Found]) -> None:
        end: BaseException | None = None
        try:
            work = seat.start()
            while not stop.is_set():
                try:
                    task = seat.waiting.popleft()
                except IndexError:
                    break
                for one in work(task):
                    found.put(("found", one))
                    if stop.is_set():
                        break
        except GaveUp:
            pass
        except BaseException as error:
            end = error
        found.put(("end", end))

    threads = [threading.Thread(target=serve, args=(seat,), daemon=True, name="fib-bench-device") for seat in seats]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            kind, one = found.get()
            if kind == "end":
                running -= 1
                if isinstance(one, BaseException):
                    raise one
            else:
                yield one  # type: ignore[misc]
    finally:
        stop.set()
        for seat in seats:
            seat.close()
        for thread in threads:
            thread.join(timeout=10.0)
