"""Child: the parent's handle of the process that runs solutions. Every wait has a limit; every end has a cause."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fib_plugin.bench import wire
from fib_plugin.bench.blob import Blob

_START_S = 180.0
_LOG_BYTES = 6000
_CODE = """import sys
from fib_plugin.bench.worker import main
main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
"""


class ChildDied(Exception):
    """The process ended by itself, or spoke nonsense; the message names the exit and carries the end of its output."""


class ChildTimeout(Exception):
    """No answer in time; the process is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where children run."""

    device: str
    threads: int
    cache: Path


class Child:
    """A process that answers `wire` requests, in a session and a scratch folder of its own.

    After `ChildDied` or `ChildTimeout` it is of no more use; make a new one.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.loaded: set[str] = set()
        self.prepared: str | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="fib-bench-"))
        self._log = self._scratch / "output.log"
        self._log_start = 0
        ours, theirs = socket.socketpair()
        self._line = ours
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno()), place.device, str(place.threads)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the parent's affair, and one kill ends all that a solution starts
                cwd=self._scratch,
                env=_environment(place),
            )
        self._started = False

    def request(self, message: wire.Request, timeout: float, blob: Blob | None = None) -> wire.Reply:
        """Send ``message`` and wait for the answer.

        Raises:
            ChildDied: the process ended.
            ChildTimeout: it did not answer within ``timeout`` seconds and was killed.
        """
        try:
            if not self._started:  # not on the solution's time
                wire.receive_reply(self._line, time.monotonic() + _START_S)
                self._started = True
            self._log_start = self._log_size()
            deadline = time.monotonic() + timeout
            self._line.settimeout(timeout)
            wire.send(self._line, message)
            if blob is not None:
                socket.send_fds(self._line, [b"F"], [blob.descriptor])
            return wire.receive_reply(self._line, deadline)
        except TimeoutError:
            self.close()
            raise ChildTimeout(f"no answer within {timeout:.1f} s") from None
        except (wire.WireError, OSError) as error:
            raise ChildDied(self._obituary(error)) from None

    def resident(self) -> int:
        """Bytes of memory it holds; 0 where that cannot be told."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        """The end of what the process printed since the last request was sent."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, self._log_size() - _LOG_BYTES))
                return file.read(_LOG_BYTES).decode(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """End the process and everything it started. Harmless when it has ended."""
        self._line.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _log_size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def _obituary(self, error: Exception) -> str:
        try:
            code = self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            cause = f"the process sent what is not an answer: {error}"
        else:
            cause = _exit_cause(code)
        log = self.log()
        self.close()
        return f"{cause}\n{log}".strip()


def _exit_cause(code: int) -> str:
    if code >= 0:
        return f"the process exited with code {code} during the run"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _environment(place: Place) -> dict[str, str]:
    environment = {**os.environ, "FIB_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(place.threads)
    if place.device == "cpu":
        # Triton reads this when it is imported; without it, it finds no driver and nothing runs.
        environment.setdefault("TRITON_INTERPRET", "1")
    return environment


def physical_cores() -> int:
    """Cores this process may use, hyper-threads not counted twice."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
