"""All devices of one host: a thread a device pulls tasks from one queue, one reader takes what they find."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Task = TypeVar("Task")
Found = TypeVar("Found")

#: Does a task on a device, handing on what it finds as it finds it.
Work = Callable[[Task, Callable[[Found], None]], None]


def host_devices() -> list[str]:
    """What torch sees here: each CUDA device by number, one without a number, or the CPU."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{index}" for index in range(count)] if count > 1 else ["cuda"] if count else ["cpu"]


def spread(
    works: Sequence[Callable[[], Work[Task, Found]]], tasks: Sequence[Task], close: Callable[[int], None]
) -> Iterator[Found]:
    """Do every task once, on whichever device is free; what is found comes out in the order in which it is found.

    A task that raises stops all, and its exception comes out here. So does leaving the iteration early.

    Args:
        works: for each device what makes its worker; called in the device's own thread.
        tasks: what is to be done, most urgent first.
        close: ends what device number n is at, and frees it; called from the reader's thread.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    found: queue.SimpleQueue[tuple[str, Found | BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def serve(make: Callable[[], Work[Task, Found]]) -> None:
        end: BaseException | None = None
        try:
            work = make()
            while not stop.is_set():
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    break
                work(task, lambda one: found.put(("found", one)))
        except BaseException as error:
            end = error
        found.put(("end", end))

    threads = [threading.Thread(target=serve, args=(make,), daemon=True, name="fib-bench-device") for make in works]
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
        for index in range(len(threads)):
            close(index)
        for thread in threads:
            thread.join(timeout=10.0)
