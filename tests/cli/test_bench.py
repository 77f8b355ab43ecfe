"""`fib bench` as its user meets it: tables, JSON, exit codes, Ctrl-C and --resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench.bench_cases import NORM, RIGHT, dataset, solution, workload
from typer.testing import CliRunner, Result

from fib_plugin.cli import app
from fib_plugin.dataset import TraceSet, load_measurements


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def fib(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_failing_solutions_are_results_and_the_exit_code_is_0(tmp_path: Path) -> None:
    dataset(tmp_path / "data", solution("good", RIGHT), solution("bad", "def run(x, weight):\n    return x[:1]\n"))
    result = fib("--dataset", str(tmp_path / "data"), "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "1 PASSED" in result.output
    assert "1 INCORRECT_SHAPE" in result.output
    assert "expected (4, 64)" in result.output


def test_json_is_one_object_with_every_measurement(tmp_path: Path) -> None:
    engine = solution("engine_op", NORM.reference, author="engine")
    dataset(tmp_path / "data", solution("good", RIGHT), engine)
    result = fib("--dataset", str(tmp_path / "data"), "--json")
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    assert told["statuses"] == {"PASSED": 2}
    assert {one["solution"]: one["baseline"] for one in told["results"]} == {
        "good": "engine_op",
        "engine_op": "engine_op",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "/no/such/place"], "--dataset"),
        (["--definitions", "zzz"], "no definition"),
        (["--solutions", "zzz"], "no solution"),
        (["--timeout", "soon"], "--timeout"),
    ],
)
def test_a_wrong_request_is_exit_code_2_and_says_what_to_change(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIB_DATASET_PATH", str(tmp_path / "data"))
    dataset(tmp_path / "data", solution("good", RIGHT))
    result = fib(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_nothing_that_could_run_is_exit_code_1(tmp_path: Path) -> None:
    broken = NORM.model_copy(update={"reference": "def run(hidden_states, weight):\n    raise ValueError('no')\n"})
    dataset(tmp_path / "data", solution("good", RIGHT), definition=broken)
    result = fib("--dataset", str(tmp_path / "data"))
    assert result.exit_code == 1, result.output
    assert "left out: workload w1 of rmsnorm_fp32_h64: the reference of rmsnorm_fp32_h64 failed" in result.output


def test_an_interrupt_keeps_what_is_done_and_resume_does_the_rest(tmp_path: Path) -> None:
    slow = RIGHT.replace("    return", "    time.sleep(0.4)\n    return").replace(
        "import torch", "import time\n\nimport torch"
    )
    root = tmp_path / "data"
    dataset(
        root,
        solution("a_quick", RIGHT),
        *(solution(f"slow_{n}", f"{slow}# {n}\n") for n in range(3)),
        workloads=(workload("w1", batch_size=2),),
    )
    command = [sys.executable, "-m", "fib_plugin", "bench", "--dataset", str(root)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Whoever runs the tests in the background hands down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not load_measurements(root):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted; kept:" in output
    assert "Traceback" not in output
    kept = {m.solution for m in load_measurements(root)}
    assert "a_quick" in kept
    assert len(kept) < 4

    resumed = json.loads(subprocess.run([*command, "--resume", "--json"], capture_output=True, check=True).stdout)
    assert {one["solution"] for one in resumed["results"]} == {"a_quick", "slow_0", "slow_1", "slow_2"} - kept
    assert len(TraceSet.from_path(root).traces[NORM.name]) == 4


def test_resuming_when_all_is_measured_is_exit_code_0_though_solutions_are_left_out(tmp_path: Path) -> None:
    elsewhere = solution("elsewhere", RIGHT)
    elsewhere = elsewhere.model_copy(
        update={"spec": elsewhere.spec.model_copy(update={"target_hardware": ["no-such-device"]})}
    )
    dataset(tmp_path / "data", solution("good", RIGHT), elsewhere)
    first = fib("--dataset", str(tmp_path / "data"), "--threads", "1")
    again = fib("--dataset", str(tmp_path / "data"), "--threads", "1", "--resume")
    assert "left out" in first.output
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
