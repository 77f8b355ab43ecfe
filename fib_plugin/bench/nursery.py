"""Nursery: the fork server of one place, for all that have children started. One that was lost is begun anew.

A desk owns it. Whoever kills the server ends all of its children with it; the next one that asks gets another server.
"""

from __future__ import annotations

from fib_plugin.bench.forkserver import ForkServer, ServerDied


class Nursery:
    """``threads`` and ``device`` are those of the place."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._server: ForkServer | None = None
        self._closed = False

    def server(self) -> ForkServer:
        """A server that runs.

        Raises:
            ServerDied: none can be started here, or the nursery is closed.
        """
        if self._closed:
            raise ServerDied("the benchmark is ending")
        if self._server is None or not self._server.alive:
            if self._server is not None:
                self._server.close()
            self._server = ForkServer(self._device, self._threads)
        return self._server

    def latency_ns(self) -> float:
        """Nanoseconds that asking and answering take by themselves just now, of a process that has no reason to lie."""
        return float(self.server().latency_ns())

    def close(self) -> None:
        """End the server and all that it started; none is started again."""
        self._closed = True
        if self._server is not None:
            self._server.close()
