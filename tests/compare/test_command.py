"""The number of a command: its wall time, a match in its output or a key of its last line; failures say what to do."""

from __future__ import annotations

import os
import re
import sys

import pytest

from fib_plugin.compare.command import CommandError, Measure, run


def say(text: str, code: int = 0, stream: str = "stdout") -> list[str]:
    return [sys.executable, "-S", "-c", f"import sys; print({text!r}, file=sys.{stream}); sys.exit({code})"]


def test_the_wall_time_counts_when_nothing_else_is_named() -> None:
    assert Measure().of("1 2 3", "", 4.5) == 4.5
    assert 0 < run(say("x"), os.environ, Measure()) < 60


@pytest.mark.parametrize(
    ("pattern", "output", "errors", "value"),
    [
        (r"tok/s: ([\d.,]+)", "tok/s: 10\ntok/s: 1,250.5\n", "", 1250.5),
        (r"\d+(?= ms)", "took 12 ms", "", 12.0),
        (r"took (\S+) s", "nothing", "took 0.5 s", 0.5),
    ],
)
def test_a_match_counts_at_its_last_place(pattern: str, output: str, errors: str, value: float) -> None:
    assert Measure(re.compile(pattern)).of(output, errors, 1.0) == value


def test_a_key_leads_into_the_object_of_the_last_line() -> None:
    measure = Measure(key="decode.0.ms")
    assert measure.of('starting\n{"decode": [{"ms": 4.5}]}\n', "", 1.0) == 4.5


@pytest.mark.parametrize(
    ("measure", "output", "word"),
    [
        (Measure(re.compile("speed: (.*)")), "slow", "correct --metric"),
        (Measure(re.compile("speed: (.*)")), "speed: fast", "no number"),
        (Measure(key="ms"), "no object", "correct --key"),
        (Measure(key="a.b"), '{"a": {"c": 1}}', "has no a.b"),
        (Measure(key="ms"), "", "has no ms"),
        (Measure(key="ms"), '{"ms": 0}', "above 0"),
        (Measure(key="ms"), '{"ms": NaN}', "above 0"),
    ],
)
def test_a_number_that_is_not_there_is_an_error(measure: Measure, output: str, word: str) -> None:
    with pytest.raises(CommandError, match=re.escape(word)):
        measure.of(output, "", 1.0)


def test_a_command_that_fails_shows_what_it_said_last() -> None:
    with pytest.raises(CommandError, match=r"(?s)ended with code 3.*out of memory"):
        run(say("out of memory", 3, "stderr"), os.environ, Measure())


def test_a_command_that_hangs_or_is_not_there_is_an_error() -> None:
    with pytest.raises(CommandError, match=r"more than 0\.2 s"):
        run([sys.executable, "-S", "-c", "import time; time.sleep(30)"], os.environ, Measure(), timeout=0.2)
    with pytest.raises(CommandError, match="cannot be started"):
        run(["/nowhere/engine"], os.environ, Measure())


def test_the_command_sees_its_side_s_environment() -> None:
    command = [sys.executable, "-S", "-c", "import os; print(os.environ['SIDE_MS'])"]
    assert run(command, {**os.environ, "SIDE_MS": "7"}, Measure(re.compile(r"\d+"))) == 7
