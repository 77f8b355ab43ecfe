"""Process: that of a child, forked from a server or an interpreter of its own, and how it ended. `Child` drives it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from fib_plugin.bench.forkserver import ForkServer

# The scratch folder is no place to import from.
_CODE = """import sys
sys.path[:] = [path for path in sys.path if path]
from fib_plugin.bench.serving import pin
from fib_plugin.bench.worker import main
pin(sys.argv[2], int(sys.argv[3]))
main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
"""


class Process(Protocol):
    """What is known of a process, whoever started it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...


class Forked:
    """A process that a fork server started."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._server.poll(self.pid)
        return self._code


def start(
    device: str, threads: int, line: socket.socket, output: int, scratch: Path, surroundings: dict[str, str]
) -> Process:
    """Start an interpreter that serves on ``line`` and prints to ``output``, in ``scratch``, without a sandbox."""
    kind = device.partition(":")[0]  # the environment shows it one device only
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, str(line.fileno()), kind, str(threads)],
        pass_fds=[line.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is the parent's affair, and one kill ends most of what it starts
        cwd=scratch,
        env=surroundings,
    )


def exit_cause(code: int) -> str:
    """What an exit code says, in words."""
    if code >= 0:
        return f"the process exited with code {code} during the run"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
