"""Workers: one answer a request, whatever else the process prints, and a clear word when it cannot answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from fib_plugin.compare.worker import Worker, WorkerError

PROGRAM = """
import os, sys, time
from fib_plugin.compare.worker import answer_requests

print("starting up")

def answer(what, *arguments):
    if what == "noise":
        sys.stdout.write("half a line" + "x" * arguments[0])
    if what == "raise":
        raise ValueError("no such batch")
    if what == "die":
        print("out of memory", flush=True)
        os._exit(3)
    if what == "sleep":
        time.sleep(arguments[0])
    return [what, *arguments, os.environ.get("SIDE")]

answer_requests(answer)
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], Worker]]:
    started: list[Worker] = []

    def start(side: str) -> Worker:
        started.append(Worker([sys.executable, "-c", PROGRAM], {**os.environ, "SIDE": side}, side))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def test_workers_answer_what_they_are_asked_each_in_its_own_environment(start: Callable[[str], Worker]) -> None:
    off, on = start("off"), start("on")
    assert on.ask("decode", 16) == ["decode", 16, "on"]
    assert off.ask("decode", {"a": [1]}) == ["decode", {"a": [1]}, "off"]


def test_what_else_it_prints_does_not_matter_however_much(start: Callable[[str], Worker]) -> None:
    worker = start("off")
    assert worker.ask("noise", 300_000)[0] == "noise"
    assert worker.ask("decode")[0] == "decode"


def test_an_exception_is_told_and_the_worker_goes_on(start: Callable[[str], Worker]) -> None:
    worker = start("off")
    with pytest.raises(WorkerError, match=r"off could not answer raise: ValueError\('no such batch'\)"):
        worker.ask("raise")
    assert worker.ask("decode")[0] == "decode"


def test_a_worker_that_ends_is_told_with_its_code_and_last_lines(start: Callable[[str], Worker]) -> None:
    worker = start("on")
    with pytest.raises(WorkerError, match=r"(?s)on ended.*out of memory") as caught:
        worker.ask("die")
    worker.close()
    with pytest.raises(WorkerError, match="code 3"):
        worker.ask("decode")
    assert "starting up" in str(caught.value)


def test_no_answer_in_time_is_an_error(start: Callable[[str], Worker]) -> None:
    worker = start("off")
    worker.ask("decode")
    with pytest.raises(WorkerError, match=r"gave no answer to sleep in 0\.1 s"):
        worker.ask("sleep", 0.5, timeout=0.1)


def test_closing_ends_the_process_and_may_be_done_twice(start: Callable[[str], Worker]) -> None:
    worker = start("off")
    worker.ask("decode")
    worker.close()
    worker.close()
    with pytest.raises(WorkerError, match="ended"):
        worker.ask("decode")
