"""An OpenAI-compatible server that is kept up, and sent a request trace each time it is measured."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fib_plugin.replay.arrivals import Arrival
    from fib_plugin.replay.summary import Summary

PORT = "{port}"
#: What of a replay can be compared, and whether more of it is better.
MEASURES = {
    "output_tokens_per_s": True,
    "requests_per_s": True,
    "ttft": False,
    "inter_token": False,
    "end_to_end": False,
}
_SHOWN_BYTES = 2000
_END_SECONDS = 20.0


class ServerError(RuntimeError):
    """A server that did not come up or did not answer; the message holds what it printed last."""


class Server:
    """One server, started at once in a process group of its own; use it in a ``with`` block.

    Args:
        command: in which ``{port}`` stands for a free port.
        name: what messages call it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = tempfile.NamedTemporaryFile(mode="w+b", prefix=f"fib-compare-{name}-", suffix=".log")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [part.replace(PORT, str(port)) for part in command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise ServerError(f"{name}: {command[0]} cannot be started: {error}") from error

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, seconds: float) -> None:
        """Returns when it lists its models.

        Raises:
            ServerError: it ended, or did not within ``seconds``.
        """
        until = time.monotonic() + seconds
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name}: the server ended with code {self._process.returncode}{self._last()}")
            try:
                with direct.open(f"{self.url}/models", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise ServerError(f"{self.name}: no answer at {self.url}/models in {seconds:g} s{self._last()}")

    def measure(self, arrivals: Sequence[Arrival], what: str, concurrency: int | None, **client: Any) -> float:
        """Replays ``arrivals`` and returns the measure ``what``; of latencies, the median in ms.

        Raises:
            ServerError: a request failed.
        """
        from fib_plugin.replay.client import Client, EndpointError
        from fib_plugin.replay.replay import Replay

        async def main() -> Summary:
            async with Client(self.url, **client) as endpoint:
                return await Replay(endpoint, arrivals, concurrency=concurrency).run()

        try:
            summary = asyncio.run(main())
        except EndpointError as error:
            raise ServerError(f"{self.name}: {error}{self._last()}") from error
        if summary.interrupted:
            raise KeyboardInterrupt
        if summary.failures:
            raise ServerError(f"{self.name}: requests failed: {summary.failures}{self._last()}")
        found = getattr(summary, what)
        return float(found if MEASURES[what] else found.p50)

    def close(self) -> None:
        """Ends the server and what it started."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, signum)
                self._process.wait(_END_SECONDS)
            except (ProcessLookupError, PermissionError):
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._log.close()

    def _last(self) -> str:
        said = Path(self._log.name).read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").strip()
        return f"; it said last:\n{said}" if said else ""
