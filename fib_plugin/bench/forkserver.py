"""ForkServer: a process that has imported torch and starts a child for a solution in milliseconds.

A forked child has one thread, so that the sandbox binds all of it, and nothing of any other solution in its memory.
The server itself runs nothing but the benchmark's own code and never has a thread beside its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fib_plugin.bench import tree, wire
from fib_plugin.bench.drain import Drain
from fib_plugin.bench.environment import environment
from fib_plugin.bench.line import WireError, receive_reply, receive_request, send

_START_S = 180.0
_ANSWER_S = 30.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PINGS = 15
# The folder it was started in is no place to import from.
_CODE = """import sys
sys.path[:] = [path for path in sys.path if path]
from fib_plugin.bench.forkserver import main
main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
"""


class ServerDied(Exception):
    """The server cannot be started or is gone; the message carries what it printed."""


class ServerLost(ServerDied):
    """The server ended after it had started, and took its children along."""


class ForkServer:
    """The parent's handle. Any thread may ask; `close` ends the server and all of its children."""

    def __init__(self, device: str, threads: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="fib-bench-")
        self._lock = threading.Lock()
        surroundings = environment(device, threads, Path(self._scratch.name), "solution")
        # A BLAS that starts threads when it is imported would be forked with its locks held.
        surroundings |= {"OPENBLAS_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair()
        self._line = ours
        reading, writing = os.pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE, str(theirs.fileno()), device.partition(":")[0], str(threads)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=self._scratch.name,
                    env=surroundings,
                )
        finally:
            os.close(writing)
        self._drain = Drain(reading)
        self._lost = False
        try:
            self._answer(None, _START_S)
        except ServerLost as error:
            self.close()
            raise ServerDied(str(error)) from None

    def fork(self, order: wire.Fork, line: socket.socket, output: int) -> int:
        """Start a child that serves on ``line`` and prints to ``output``; its process id."""
        with self._lock:
            send(self._line, order)
            socket.send_fds(self._line, [b"F"], [line.fileno(), output])
            pid: int = self._answer(None, _ANSWER_S).pid
        return pid

    def poll(self, pid: int) -> int | None:
        """The exit code of a child; None while it runs. Of a server that is gone, all children are."""
        try:
            with self._lock:
                code: int | None = self._answer(wire.Poll(pid), _ANSWER_S).code
            return code
        except ServerDied:
            return -signal.SIGKILL

    @property
    def alive(self) -> bool:
        """Whether it can start children. Once it did not answer, none that it started is of use either."""
        return not self._lost and self._process.poll() is None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            for pid in tree.below(self._process.pid) | {self._process.pid}:
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._line.close()
        self._drain.close()
        self._scratch.cleanup()

    def latency_ns(self) -> int:
        """Nanoseconds that a question and its answer take at least, on a line like those to the children."""
        took = []
        with self._lock:
            for _ in range(_PINGS):
                start = time.perf_counter_ns()
                self._answer(wire.Ping(), _ANSWER_S)
                took.append(time.perf_counter_ns() - start)
        return min(took)

    def _answer(self, question: wire.Request | None, limit_s: float) -> Any:
        try:
            if question is not None:
                send(self._line, question)
            return receive_reply(self._line, time.monotonic() + limit_s)
        except (WireError, TimeoutError, OSError) as error:
            self._lost = True
            said = f"the process that starts children is gone ({error})\n{self._drain.text()}"
            raise ServerLost(said.strip()) from None


def main(descriptor: int, device: str, threads: int) -> None:
    """Serve on an inherited socket until it closes."""
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what a dead child leaves comes here, to be ended
    from fib_plugin.bench import oracle, sandbox, serving, worker  # imports torch

    with contextlib.suppress(ImportError, RuntimeError):
        import pyseccomp  # looks for its library with a subprocess, which the sandbox would refuse  # noqa: F401
    line = socket.socket(fileno=descriptor)
    send(line, wire.Ready())
    codes: dict[int, int | None] = {}
    while True:
        try:
            request = receive_request(line)
        except WireError:
            os._exit(0)
        if isinstance(request, wire.Ping):
            send(line, wire.Ready())
            continue
        _reap(codes)
        if isinstance(request, wire.Fork):
            _, (their_line, output), _, _ = socket.recv_fds(line, 1, 2)
            pid = os.fork()
            if pid == 0:
                line.close()
                _enter(request, output)
                judges = request.role == "referee"
                place = "cpu" if judges else device
                serving.pin(place, threads)
                readable = [Path(path) for path in request.readable]
                notes = sandbox.confine(Path(request.scratch), readable, place, request.memory)
                if judges:
                    oracle.main(their_line, threads, notes)
                worker.main(their_line, device, threads, notes)
            os.close(their_line)
            os.close(output)
            codes[pid] = None
            send(line, wire.Forked(pid))
        elif isinstance(request, wire.Poll):
            send(line, wire.Exited(codes.get(request.pid, -signal.SIGKILL)))
            if codes.get(request.pid) is not None:
                del codes[request.pid]


def _enter(order: wire.Fork, output: int) -> None:
    """In the new child: a session, an output, a folder and an environment of its own."""
    os.setsid()  # one kill ends most of what it starts
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(order.scratch)
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(order.environment)


def _reap(codes: dict[int, int | None]) -> None:
    """Take note of who ended, and end what they left behind: it has no parent but us now."""
    for pid in tree.below(os.getpid()) - set(codes):
        if tree.parent(pid) == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in codes:
            codes[pid] = os.waitstatus_to_exitcode(status)
