"""Child: the parent's handle of a process that runs solutions, or references. Waits have a limit, ends have a cause."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fib_plugin.bench import tree, wire
from fib_plugin.bench.blob import Blob
from fib_plugin.bench.drain import Drain
from fib_plugin.bench.environment import environment
from fib_plugin.bench.excess import Excess
from fib_plugin.bench.forkserver import ForkServer, ServerLost
from fib_plugin.bench.host import free_bytes
from fib_plugin.bench.line import WireError, pending, receive_owed, receive_reply, send
from fib_plugin.bench.process import Forked, Process, exit_cause, start

_START_S = 180.0
_POLL_S = 0.1
#: By so many times itself a limit is put off, at most, for a process that has no core to run on.
_MOST_OWED = 3.0


class ChildDied(Exception):
    """The process ended by itself, or spoke nonsense; the message names the exit and carries the end of its output."""


class ChildTimeout(Exception):
    """No answer in time; the process is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where children run, and how they are timed.

    Args:
        device, threads: what they run on.
        cache: the build cache.
        graphs: on a GPU, time replays of CUDA graphs, where calls can be recorded.
        warm: leave inputs in the device's cache, as no engine does with weights.
        kernels: on a GPU, also have CUPTI tell how long kernels ran, and how many.
    """

    device: str
    threads: int
    cache: Path
    graphs: bool = True
    warm: bool = False
    kernels: bool = False


class Child:
    """A process that answers `wire` requests, in a session and a scratch folder of its own.

    After `ChildDied` or `ChildTimeout` it is of no more use; make a new one. With a ``server`` it is sandboxed, forked
    from it, and runs only while it has something to answer. Without, it runs what is trusted, such as an engine's op.

    Args:
        place: where it runs.
        server: starts it; None starts an interpreter of its own, without a sandbox.
        memory_bytes: how much more memory than at its start a sandboxed child may take; None is half of what is free.
        readable: what a sandboxed child may read besides the interpreter and its libraries.
        role: whether a sandboxed child runs solutions or references.
    """

    def __init__(
        self,
        place: Place,
        server: ForkServer | None,
        memory_bytes: int | None = None,
        readable: Sequence[Path] = (),
        role: Literal["solution", "referee"] = "solution",
    ) -> None:
        self.place = place
        self.sandboxed = server is not None
        self._server = server
        #: Protections that this host lacks, in words; known from the first answer on.
        self.notes: tuple[str, ...] = ()
        #: Nanoseconds between the last request and its answer, by this process's clock.
        self.took_ns = 0
        self.scratch = Path(tempfile.mkdtemp(prefix="fib-bench-"))
        self._memory = memory_bytes if memory_bytes is not None else free_bytes() // 2
        self._mark = uuid.uuid4().hex
        self._cause = ""
        self._resting = False
        self._halted: set[int] = set()
        surroundings = environment(
            place.device, place.threads, self.scratch, "solution" if self.sandboxed else "referee"
        )
        surroundings[tree.MARK] = self._mark
        ours, theirs = socket.socketpair()
        self._line = ours
        reading, writing = os.pipe()
        try:
            with theirs:
                self._process: Process = (
                    start(place.device, place.threads, theirs, writing, self.scratch, surroundings)
                    if server is None
                    else Forked(
                        server,
                        server.fork(
                            wire.Fork(surroundings, str(self.scratch), list(map(str, readable)), self._memory, role),
                            theirs,
                            writing,
                        ),
                    )
                )
        finally:
            os.close(writing)
        self._drain = Drain(reading)
        self._excess = Excess(self._process.pid, self._memory, self.scratch)
        self._started = False
        self._over = threading.Event()
        if self.sandboxed:
            threading.Thread(target=self._watch, name="fib-bench-watch", daemon=True).start()

    def request(self, message: wire.Request, timeout: float, blob: Blob | None = None) -> wire.Reply:
        """Send ``message`` and wait for the answer.

        Raises:
            ChildDied: the process ended.
            ChildTimeout: it did not answer within ``timeout`` seconds and was killed. For how long it had no core does
                not count, up to three times as much.
            ServerLost: the server that it was forked from was killed, and it went with it.
        """
        try:
            if not self._started:  # not on the solution's time
                hello = receive_reply(self._line, time.monotonic() + _START_S)
                self.notes = tuple(getattr(hello, "notes", ()))
                self._started = True
            if pending(self._line):
                raise WireError("it spoke without being asked")
            self._drain.mark()
            waited = self.waited_ns()
            deadline = time.monotonic() + timeout
            self._line.settimeout(timeout)
            self._wake()  # and at once on the clock: what runs in it runs from here on
            start = time.perf_counter_ns()
            send(self._line, message)
            if blob is not None:
                socket.send_fds(self._line, [b"F"], [blob.descriptor])
            reply = receive_owed(self._line, deadline, lambda: owed_s(self.waited_ns() - waited, timeout))
            self.took_ns = time.perf_counter_ns() - start
            self._rest()
            return reply
        except TimeoutError:
            stopped = tree.state(self._process.pid) == "T"
            said = f"no answer within {timeout:.1f} s" + (
                "; the process had been stopped by a signal" if stopped else ""
            )
            self.close()
            raise ChildTimeout(said) from None
        except (WireError, OSError) as error:
            said = self._obituary(error)
            if self.orphaned:
                raise ServerLost("the process that starts children was killed, and its children with it") from None
            raise ChildDied(said) from None

    def _wake(self) -> None:
        if self._resting:
            self._resting = False
            for pid in self._halted:
                _send(pid, signal.SIGCONT)
            self._halted.clear()
            self._signal(signal.SIGCONT)

    def _rest(self) -> None:
        """Stop it until it is asked again: what it left running takes nothing from whose turn it is."""
        if self.sandboxed:
            self._resting = True
            self._signal(signal.SIGSTOP)
            # What it started may have left its session; what is stopped starts no more.
            while found := tree.running(self._process.pid) - self._halted:
                for pid in found:
                    _send(pid, signal.SIGSTOP)
                self._halted |= found

    def _signal(self, number: signal.Signals) -> None:
        # It is not waited for before it is closed, so its number cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    @property
    def helpers(self) -> int:
        """How many processes that it started were running when it last answered."""
        return len(self._halted)

    @property
    def usable(self) -> bool:
        """Whether it has neither failed, nor been closed, nor lost the server that it was forked from."""
        return not self._over.is_set() and not self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether the server that it was forked from is gone, which ends it through no fault of its own."""
        return self._server is not None and not self._server.alive

    def resident(self) -> int:
        """Bytes of memory it holds; 0 where that cannot be told."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_ns(self) -> int:
        """Nanoseconds of processor time that all its threads took so far, those that ended among them."""
        return tree.cpu_ns(self._process.pid)

    def waited_ns(self) -> int:
        """Nanoseconds that its threads could have run and had no core, by the kernel's account."""
        return tree.waited_ns(self._process.pid)

    def log(self) -> str:
        """What the process printed since the last request was sent: of much, the beginning and the end."""
        return self._drain.text()

    def close(self) -> None:
        """End the process and everything it started. Harmless when it has ended."""
        if self._over.is_set():
            return
        self._over.set()
        self._line.close()
        # Once it was waited for, its number and those below may be another's: only what carries the mark is ours.
        seen = self._excess.seen
        known = seen & tree.marked(self._mark) if seen else set()
        if self._process.poll() is None:
            tree.end(self._process.pid, self._mark, known)
        elif known or self.orphaned or not self.sandboxed:
            tree.end_marked(self._mark)
        self._wait(5.0)
        self._drain.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _watch(self) -> None:
        """Ends a child that takes too much of the host."""
        while not self._over.wait(_POLL_S):
            if self._resting:
                continue
            self._cause = self._excess.cause()
            if self._cause:
                if not self._over.is_set():
                    tree.end(self._process.pid, self._mark, self._excess.seen)
                return

    def _wait(self, seconds: float) -> int | None:
        """Its exit code, if it has one within ``seconds``."""
        deadline = time.monotonic() + seconds
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return code

    def _obituary(self, error: Exception) -> str:
        closed = "closed" in str(error) or isinstance(error, OSError)
        code = self._wait(2.0 if closed else 0.0)
        if code is None:
            cause = (
                "the process closed its line to the benchmark"
                if closed
                else f"the process sent what is not an answer: {error}"
            )
        else:
            cause = f"the process was killed: {self._cause}" if self._cause else exit_cause(code)
        log = self.log()
        self.close()
        return f"{cause}\n{log}".strip()


def owed_s(waited_ns: int, limit_s: float) -> float:
    """By how many seconds a limit is put off for threads that waited for a core: a busy host is no fault of theirs.

    Whoever has many threads wait for each other's core gains no more than `_MOST_OWED` limits.
    """
    return min(max(waited_ns, 0) / 1e9, _MOST_OWED * limit_s)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
