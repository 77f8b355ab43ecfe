"""`fib compare`: off and on in turns, by wall time, by a number, by a worker, by two servers; exit codes and words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fib_plugin.cli import app

REPLAY = Path(__file__).parents[1] / "replay"

#: Prints 10 without the plugin and 5 with it.
NUMBER = "import os; print('ms:', 10 if os.environ.get('FIB_DISABLE') == '1' else 5)"
#: The same on request.
WORKER = """
import os
from fib_plugin.compare.worker import answer_requests
off = os.environ.get("FIB_DISABLE") == "1"
answer_requests(lambda what, batch=1: batch * (10 if off else 5) if what == "decode" else "soon")
"""
#: An endpoint that is twice as fast with the plugin, at the port that it is given.
SERVER = f"""
import os, sys, time
sys.path.insert(0, {str(REPLAY)!r})
from http.server import ThreadingHTTPServer
import fake_endpoint
real = fake_endpoint.ThreadingHTTPServer
fake_endpoint.ThreadingHTTPServer = lambda address, handler: real(("127.0.0.1", int(sys.argv[1])), handler)
slow = os.environ.get("FIB_DISABLE") == "1"
with fake_endpoint.FakeEndpoint(first=0.2 if slow else 0.02):
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _place(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COLUMNS", "200")


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


def number(*arguments: str, program: str = NUMBER) -> Result:
    return compare("-n", "2", "--warmup", "0", *arguments, "--", sys.executable, "-S", "-c", program)


def parsed(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_a_number_that_is_halved_is_a_ratio_of_two() -> None:
    result = number("--metric", r"ms: (\d+)", "--json")
    assert result.exit_code == 0, result.output
    found = parsed(result)
    assert (found["ratio"], found["interval"], found["decided"]) == (2.0, [2.0, 2.0], True)
    assert found["samples"] == {"off": [10.0, 10.0], "on": [5.0, 5.0]}
    assert found["rounds"] == 2


def test_of_a_throughput_half_is_a_ratio_of_a_half() -> None:
    assert parsed(number("--metric", r"ms: (\d+)", "--higher-is-better", "--json"))["ratio"] == 0.5


def test_the_table_shows_medians_ratio_spread_and_that_the_plugin_did_nothing() -> None:
    result = number("--metric", r"ms: (\d+)")
    for told in ("2.0000", "2.0000 .. 2.0000", "on is better", "0 processes ran the plugin", "the plugin did not run"):
        assert told in result.output, told


def test_the_wall_time_counts_without_options() -> None:
    found = parsed(number("--json", program="pass"))
    assert found["measure"] == "seconds"
    assert not found["higher_is_better"]


def test_options_reach_the_on_side_only(tmp_path: Path) -> None:
    show = "import os, json; print(json.dumps({'v': 1 + int(os.environ.get('FIB_ENABLE_TRACING', 0)) * 10}))"
    assert parsed(number("--tracing", "--key", "v", "--json", program=show))["samples"] == {
        "off": [1, 1],
        "on": [11, 11],
    }


def test_a_side_that_fails_ends_it_with_what_it_said() -> None:
    result = number(program="raise SystemExit('no such model')")
    assert result.exit_code == 1
    assert "no such model" in result.output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--metric", "("), "--metric ("),
        (("--metric", "a", "--key", "b"), "take one"),
        (("--serve", "--worker"), "take one"),
        (("--worker", "--ask", "decode"), "give a JSON list"),
        (("--serve",), "needs --trace"),
        (("--serve", "--trace", "t", "--vocab", "9"), "write {port}"),
        (("--serve", "--trace", "t", "--vocab", "9", "--measure", "speed"), "take one of"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_change(arguments: tuple[str, ...], word: str) -> None:
    result = number(*arguments)
    assert result.exit_code == 2
    assert word in result.output


def test_workers_stay_up_and_are_asked_in_turns() -> None:
    command = ["--", sys.executable, "-c", WORKER]
    result = compare("--worker", "--ask", '["decode", 16]', "-n", "3", "--json", *command)
    assert result.exit_code == 0, result.output
    assert parsed(result)["samples"] == {"off": [160.0] * 3, "on": [80.0] * 3}
    result = compare("--worker", "-n", "1", *command)
    assert result.exit_code == 1
    assert "no number above 0" in result.output


def test_two_servers_are_sent_the_same_trace_in_turns(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    trace = tmp_path / "trace.csv"
    lines = "".join(f"2023-11-16 18:15:46.{tenth}000000,20,4\n" for tenth in range(4))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + lines)
    options = ["--serve", "--trace", str(trace), "--vocab", "64", "-n", "2", "--measure", "ttft", "--json"]
    result = compare(*options, "--", sys.executable, "-c", SERVER, "{port}")
    assert result.exit_code == 0, result.output
    found = parsed(result)
    assert found["off"] >= 200
    assert found["ratio"] > 1.2
    assert not found["higher_is_better"]


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.1,20,4\n")
    options = ["--serve", "--trace", str(trace), "--vocab", "64"]
    result = compare(*options, "--", sys.executable, "-S", "-c", "raise SystemExit('out of memory')", "{port}")
    assert result.exit_code == 1
    assert "out of memory" in result.output
