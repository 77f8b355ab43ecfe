"""`fib status --watch` in a terminal and in a pipe: it follows what is reported and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board.serving_cases import op, report

Watch = Callable[..., "subprocess.Popen[Any]"]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Starts `fib status --watch` on the test's folder."""
    started: list[subprocess.Popen[Any]] = []

    def watch(*arguments: str, **streams: Any) -> subprocess.Popen[Any]:
        command = [sys.executable, "-m", "fib_plugin", "status", "--watch", "--cache", str(tmp_path), *arguments]
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"},
                # Whoever runs the tests in the background hands down an ignored SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                **streams,
            )
        )
        return started[-1]

    yield watch
    for process in started:
        process.kill()
        process.wait()


class Terminal:
    """A terminal in which a program runs, and all that it wrote to it."""

    def __init__(self) -> None:
        self.ours, self.its = pty.openpty()
        self.text = ""

    def until(self, enough: Callable[[str], bool], seconds: float = 30.0) -> bool:
        """Reads until there is enough; False if that took too long."""
        deadline = time.monotonic() + seconds
        while not enough(self.text):
            if not select.select([self.ours], [], [], max(deadline - time.monotonic(), 0))[0]:
                return False
            self.text += os.read(self.ours, 65536).decode()
        return True


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ours)
    os.close(terminal.its)


def test_a_terminal_shows_what_is_reported_as_soon_as_it_is(tmp_path: Path, watch: Watch, terminal: Terminal) -> None:
    watch(stdin=terminal.its, stdout=terminal.its, stderr=terminal.its)
    assert terminal.until(lambda text: "no process has reported" in text)
    report(tmp_path / "status", ops={"vllm.gemm": op(41)})
    assert terminal.until(lambda text: "vllm.gemm" in text and "41" in text)
    report(tmp_path / "status", ops={"vllm.norm": op(73)}, pid=os.getppid())
    assert terminal.until(lambda text: "vllm.norm" in text and "73" in text)


def test_an_interrupt_leaves_the_terminal_as_it_was(watch: Watch, terminal: Terminal) -> None:
    process = watch(stdin=terminal.its, stdout=terminal.its, stderr=terminal.its)
    assert terminal.until(lambda text: text.count("no process has reported") >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    terminal.until(lambda text: False, seconds=0.5)
    assert "Traceback" not in terminal.text
    assert "Aborted" not in terminal.text
    assert cursor_is_visible(terminal.text)
    last_line = terminal.text.replace("\x1b[?25h", "").rpartition("\n")[2]
    assert last_line == "", "the prompt would stand behind the report"


def test_a_watch_that_is_killed_leaves_a_cursor(watch: Watch, terminal: Terminal) -> None:
    process = watch(stdin=terminal.its, stdout=terminal.its, stderr=terminal.its)
    assert terminal.until(lambda text: text.count("no process has reported") >= 2)
    process.kill()
    process.wait(timeout=20)
    assert cursor_is_visible(terminal.text)


def cursor_is_visible(text: str) -> bool:
    return text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l")


def test_json_is_one_object_a_line_each_second(tmp_path: Path, watch: Watch) -> None:
    report(tmp_path / "status", ops={"vllm.gemm": op(1)})
    process = watch("--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = json.loads(process.stdout.readline())
    began = time.monotonic()
    report(tmp_path / "status", pid=os.getppid(), ops={"vllm.gemm": op(41)})
    second = json.loads(process.stdout.readline())
    assert 0.5 < time.monotonic() - began < 10
    assert (first["calls"], second["calls"]) == (1, 42)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_a_pipe_gets_one_report_after_the_other(tmp_path: Path, watch: Watch) -> None:
    report(tmp_path / "status", ops={"vllm.gemm": op(41)})
    process = watch(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = 0
    while seen < 2:
        line = process.stdout.readline()
        assert line, "the watch ended"
        assert "\x1b" not in line
        seen += "vllm.gemm" in line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_a_reader_that_goes_away_ends_the_watch_quietly(watch: Watch) -> None:
    process = watch("--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    assert process.stderr.read() == ""
