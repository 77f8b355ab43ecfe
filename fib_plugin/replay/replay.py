"""Replay: requests leave at their arrival times, as many at once as allowed; an interrupt keeps what came so far."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from fib_plugin.replay.answer import Answer
from fib_plugin.replay.arrivals import Arrival
from fib_plugin.replay.client import Client
from fib_plugin.replay.summary import Summary, summarize


class Replay:
    """One run over ``arrivals``, which are in their order.

    Args:
        concurrency: most requests under way; the ones after wait, and the summary says how long.
        progress: called with each answer, as it is whole or has failed.
    """

    def __init__(
        self,
        client: Client,
        arrivals: Sequence[Arrival],
        *,
        concurrency: int | None = None,
        progress: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self.answers: list[Answer] = []
        self._client = client
        self._arrivals = arrivals
        self._concurrency = concurrency
        self._progress = progress
        self._under_way = 0

    async def run(self) -> Summary:
        """Sends everything and waits for the answers; Ctrl-C ends it with the summary of what came so far."""
        work = asyncio.ensure_future(self._send_all())
        stopped = False

        def stop() -> None:
            nonlocal stopped
            stopped = True
            work.cancel()

        cut_off = 0
        with _on_interrupt(stop):
            try:
                await work
            except asyncio.CancelledError:
                if not stopped:  # someone else's cancel goes on
                    raise
                cut_off = self._under_way
        return summarize(self.answers, len(self._arrivals), cut_off, stopped)

    async def _send_all(self) -> None:
        allowed = asyncio.Semaphore(self._concurrency) if self._concurrency else None
        running: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        try:
            for number, arrival in enumerate(self._arrivals):
                if allowed is not None:
                    await allowed.acquire()
                payload = self._client.payload(number, arrival)
                await asyncio.sleep(max(0.0, began + arrival.at - time.perf_counter()))
                task = asyncio.ensure_future(self._send(payload, arrival, began, allowed))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.gather(*running)
        finally:
            for task in list(running):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _send(self, payload: bytes, arrival: Arrival, began: float, allowed: asyncio.Semaphore | None) -> None:
        self._under_way += 1
        answer = await self._client.send(payload, arrival, began)
        self._under_way -= 1
        if allowed is not None:
            allowed.release()
        self.answers.append(answer)
        self._progress(answer)


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls ``stop`` once; a second one ends the process as usual. Only the main thread may ask for it."""
    loop = asyncio.get_running_loop()

    def once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop()

    try:
        loop.add_signal_handler(signal.SIGINT, once)
    except (NotImplementedError, RuntimeError, ValueError):  # another thread, or no such handlers here
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
