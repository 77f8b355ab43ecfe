"""`fib replay`: its summary, its exit codes, and errors that say what to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

pytest.importorskip("aiohttp")
from fib_plugin.cli.replay import replay

sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))
from fake_endpoint import FakeEndpoint

app = typer.Typer()
app.command()(replay)

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:46.{tenth}000000,{100 * tenth + 100},{10 * tenth + 10}\n" for tenth in range(4)
)


def fib_replay(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return file


def test_latencies_throughput_and_counts_are_shown(trace: Path) -> None:
    with FakeEndpoint() as endpoint:
        result = fib_replay(trace, "--url", endpoint.url, "--vocab", 64, "--scale-lengths", 0.1, "--rate", 4)
    assert result.exit_code == 0, result.output
    for told in ("time to first token", "inter-token", "end to end", "p99", "4 of 4 requests answered", "requests/s"):
        assert told in result.output
    assert "100 prompt and 10 output tokens" in result.output


def test_json_is_one_object_with_milliseconds(trace: Path) -> None:
    with FakeEndpoint() as endpoint:
        result = fib_replay(
            trace, "--url", endpoint.url, "--vocab", 64, "--requests", 3, "--max-output-tokens", 2, "--json"
        )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["completed"], content["planned"], content["output_tokens"]) == (3, 3, 6)
    assert set(content["ttft_ms"]) == {"mean", "p50", "p90", "p99", "max"}
    assert content["failures"] == {}


def test_failures_are_shown_once_in_full_and_counted(trace: Path) -> None:
    with FakeEndpoint(fault="http_400") as endpoint:
        result = fib_replay(trace, "--url", endpoint.url, "--vocab", 64)
    assert result.exit_code == 1
    assert result.output.count("is out of vocabulary") == 1
    assert "failed: 4 http_400" in result.output


def test_a_trace_that_is_not_there_ends_with_two(tmp_path: Path) -> None:
    result = fib_replay(tmp_path / "none.csv", "--url", "http://127.0.0.1:9/v1", "--vocab", 64)
    assert result.exit_code == 2
    assert "no such file" in result.output


def test_an_endpoint_that_is_not_there_ends_with_two(trace: Path) -> None:
    result = fib_replay(trace, "--url", "http://127.0.0.1:9/v1", "--vocab", 64, "--json")
    assert result.exit_code == 2
    assert "cannot be reached" in json.loads(result.stdout)["error"]


def test_without_a_terminal_the_vocabulary_must_be_named(trace: Path) -> None:
    result = fib_replay(trace, "--url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 2
    assert "--vocab is missing" in result.output


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--rate", "0", "above 0"), ("--body", "[1]", "JSON object"), ("--body", "{", "--body")],
)
def test_a_wrong_option_is_named(trace: Path, option: str, value: str, told: str) -> None:
    result = fib_replay(trace, "--url", "http://127.0.0.1:9/v1", "--vocab", 64, option, value)
    assert result.exit_code == 2
    assert told in result.output


def test_ctrl_c_prints_the_summary_so_far_and_ends_with_130(trace: Path) -> None:
    with FakeEndpoint(fault="stall", every=4) as endpoint:
        command = [
            sys.executable,
            "-m",
            "fib_plugin",
            "replay",
            trace,
            "--url",
            endpoint.url,
            "--vocab",
            "64",
            "--json",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(endpoint.requests) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    content = json.loads(stdout)
    assert content["interrupted"]
    assert (content["completed"], content["cut_off"], content["planned"]) == (3, 1, 4)


def test_the_client_of_vllm_may_send_the_requests(trace: Path) -> None:
    pytest.importorskip("vllm.benchmarks.lib.endpoint_request_func")
    with FakeEndpoint() as endpoint:
        result = fib_replay(
            trace,
            "--url",
            endpoint.url,
            "--vocab",
            64,
            "--scale-lengths",
            0.1,
            "--rate",
            4,
            "--client",
            "vllm",
            "--json",
        )
        sent = endpoint.requests
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["client"], content["completed"], content["output_tokens"]) == ("vllm", 4, 10)
    assert all("repetition_penalty" in request for request in sent)  # as only that client sends


def test_the_client_of_vllm_without_vllm_is_an_error_with_its_remedy(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.benchmarks.lib.endpoint_request_func", None)
    with FakeEndpoint() as endpoint:
        result = fib_replay(trace, "--url", endpoint.url, "--vocab", 64, "--client", "vllm", "--json")
    assert result.exit_code == 2
    assert "--client own" in json.loads(result.stdout)["error"]
