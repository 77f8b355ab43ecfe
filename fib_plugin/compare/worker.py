"""A process that answers one line of JSON with another: how something that takes long to start is kept up and asked.

The asking side is ``Worker``; the answering one calls ``answer_requests``. What else the process prints is left alone.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

#: Begins the lines that are answers; engines print others.
ANSWER = "answer: "
_KEPT_LINES = 15
_END_SECONDS = 60.0


class WorkerError(RuntimeError):
    """A worker that ended or gave no answer; the message holds the last lines that it printed."""


class Worker:
    """A worker process, started at once; ask it from one thread.

    >>> with Worker([sys.executable, "engine.py"], os.environ, "stock") as stock:
    ...     took = stock.ask("decode", 16)

    Args:
        name: what messages call it.
        log: where its standard error goes; None: to ours.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], name: str = "", log: TextIO | None = None
    ) -> None:
        self.name = name or command[0]
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        # Read all the time: a pipe that is full stops who writes into it, also one that is still starting.
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, *request: Any, timeout: float | None = None) -> Any:
        """The answer to a request, which both are what JSON can express.

        Raises:
            WorkerError: the process ended, raised, or did not answer in ``timeout`` seconds.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._error("ended") from None
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise self._error(f"gave no answer to {request[0]} in {timeout:g} s") from None
        if line is None:
            raise self._error("ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self._error(f"could not answer {request[0]}: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        """Ends the process: it is asked to first."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                self._answers.put(line[len(ANSWER) :])
            else:
                self._said.append(line.rstrip())
        self._answers.put(None)

    def _error(self, what: str) -> WorkerError:
        code = self._process.poll()
        ended = "" if code is None else f" (code {code})"
        said = "".join(f"\n  {line}" for line in self._said)
        return WorkerError(f"{self.name} {what}{ended}" + (f"; it said last:{said}" if said else ""))


def answer_requests(answer: Callable[..., Any]) -> None:
    """Answers every request of standard input until it ends; ``answer`` gets what was asked as its arguments."""
    for line in sys.stdin:
        try:
            content: dict[str, Any] = {"answer": answer(*json.loads(line))}
        except Exception as error:
            content = {"error": repr(error)}
        # What the engine printed without an end of line must not swallow the answer.
        print("\n" + ANSWER + json.dumps(content), flush=True)
