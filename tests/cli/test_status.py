"""`fib status`: what it prints about running and ended engines."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from fib_plugin.capture.writer import Writer
from fib_plugin.cli import status as status_command
from fib_plugin.cli.status import status
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.dispatch.reason import REMEDIES

sys.path.insert(0, str(Path(__file__).parents[1] / "board"))
from serving_cases import ended_pid, op, report

app = typer.Typer()
app.command()(status)


def fib_status(cache: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--cache", str(cache), *arguments], env={"COLUMNS": "240"})


def fib_status_json(cache: Path, *arguments: str) -> dict[str, Any]:
    result = fib_status(cache, "--json", *arguments)
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def cells(output: str, word: str) -> list[str]:
    """The cells of the one table row that has the word."""
    rows = [line for line in output.splitlines() if word in line]
    assert len(rows) == 1, output
    return [cell for cell in re.split(r"\s{2,}", rows[0].strip()) if cell]


def test_an_op_shows_calls_substituted_and_fallbacks_by_reason(tmp_path: Path) -> None:
    report(
        tmp_path / "status",
        ops={"vllm.gemm": op(2000, 500, "fast_gemm__gemm_n8_k4", not_faster=1400, unmeasured_shape=100)},
    )
    output = fib_status(tmp_path).stdout
    assert cells(output, "vllm.gemm") == [
        "vllm.gemm",
        "2,000",
        "500 (25%)",
        "fast_gemm",
        "not_faster 1,400",
    ]
    assert "unmeasured_shape 100" in output
    assert "nothing was substituted" not in output


def test_processes_show_their_state_engine_and_switches(tmp_path: Path) -> None:
    dead = ended_pid()
    report(tmp_path / "status", switches={"apply": True, "tracing": True, "strict": False})
    report(tmp_path / "status", pid=dead, rank=1)
    output = fib_status(tmp_path).stdout
    assert cells(output, f" {os.getpid()} (rank 0)")[1:4] == ["running", "vllm 0.32.0", "apply, tracing"]
    assert cells(output, f" {dead} (rank 1)")[1:4] == ["ended", "vllm 0.32.0", "apply"]


def test_when_nothing_was_substituted_it_says_why_and_what_to_do(tmp_path: Path) -> None:
    reasons = {"no_solution": 400, "not_measured_here": 300, "not_faster": 200, "unmeasured_shape": 100}
    report(tmp_path / "status", ops={"vllm.gemm": op(1000, **reasons)})
    output = fib_status(tmp_path).stdout
    assert "nothing was substituted" in output
    for reason in ("no_solution", "not_measured_here", "not_faster"):
        assert REMEDIES[reason] in output
    assert REMEDIES["unmeasured_shape"] not in output
    assert "1 further reasons" in output


def test_without_any_report_it_says_how_to_get_one(tmp_path: Path) -> None:
    result = fib_status(tmp_path)
    assert result.exit_code == 0
    assert "FIB_ENABLE_APPLY=1" in result.stdout


def test_quarantined_solutions_are_shown_with_their_reason(tmp_path: Path) -> None:
    entry = {"solution": "bad[red]", "definition": "d", "reason": "build_failed", "detail": "boom", "hash": "a" * 64}
    report(tmp_path / "status", quarantined=[{**entry, "axes": {"M": 4, "B": 1}}])
    output = fib_status(tmp_path).stdout
    assert cells(output, "bad[red]") == ["bad[red]", "d", "M=4 B=1", "build_failed", "boom", "a" * 12]
    assert REMEDIES["build_failed"] in output


def quarantine(cache: Path, solution: str, **changed: Any) -> None:
    fields = {"definition": "d", "hash": "a" * 64, "reason": "wrong_here", "axes": {"M": 4}, "hardware": "here"}
    assert Quarantine(cache / "quarantine").add(Record(solution=solution, **{**fields, **changed}))


def test_quarantined_solutions_of_processes_that_are_gone_are_shown_with_the_way_back(tmp_path: Path) -> None:
    quarantine(tmp_path, "bad", detail="boom")
    output = fib_status(tmp_path).stdout
    assert cells(output, "wrong_here") == ["bad", "d", "M=4", "wrong_here", "boom", "a" * 12]
    assert output.count("fib trust add bad") == 1


def test_a_record_that_a_running_process_tells_of_too_is_shown_once(tmp_path: Path) -> None:
    quarantine(tmp_path, "bad", detail="boom")
    (record,) = Quarantine(tmp_path / "quarantine").records()
    report(tmp_path / "status", quarantined=[msgspec.to_builtins(record)])
    assert len(cells(fib_status(tmp_path).stdout, "wrong_here")) == 6
    assert len(fib_status_json(tmp_path)["quarantined"]) == 1


def test_records_of_several_devices_show_which_is_whose(tmp_path: Path) -> None:
    quarantine(tmp_path, "bad")
    assert "here" not in cells(fib_status(tmp_path).stdout, "a" * 12)
    quarantine(tmp_path, "worse", hash="b" * 64, hardware="there")
    output = fib_status(tmp_path).stdout
    assert (cells(output, "a" * 12)[-1], cells(output, "b" * 12)[-1]) == ("here", "there")


def test_measurements_of_other_hardware_are_warned_of(tmp_path: Path) -> None:
    report(tmp_path / "status", switches={"apply": True, "any_hardware": True})
    assert "warning: FIB_APPLY_ANY_HARDWARE=1" in fib_status(tmp_path).stdout
    assert "FIB_APPLY_ANY_HARDWARE" in fib_status_json(tmp_path)["warnings"][0]


def test_dropped_records_are_shown_with_their_remedy(tmp_path: Path) -> None:
    report(
        tmp_path / "status",
        switches={"tracing": True},
        capture={"written": 12, "dropped": {"disk_full": 3}, "seen": 4000},
    )
    output = fib_status(tmp_path).stdout
    assert "4,000 calls seen, 12 workloads written" in output
    assert "3 disk_full" in output
    assert "free space" in output


def test_hooks_that_do_not_fit_are_shown_and_those_that_do_are_not(tmp_path: Path) -> None:
    targets = [
        {"adapter": "vllm.gemm", "target": "mod:gone", "state": "missing", "detail": "no such attribute"},
        {"adapter": "vllm.gemm", "target": "mod:fine", "state": "patched", "detail": ""},
    ]
    report(tmp_path / "status", targets=targets)
    output = fib_status(tmp_path).stdout
    assert "hook missing: mod:gone of vllm.gemm (no such attribute)" in output
    assert "mod:fine" not in output


def test_json_holds_the_sums_and_the_explanation(tmp_path: Path) -> None:
    report(tmp_path / "status", ops={"vllm.gemm": op(10, not_faster=10)})
    content = fib_status_json(tmp_path)
    assert (content["calls"], content["substituted"]) == (10, 0)
    assert content["ops"]["vllm.gemm"]["fallbacks"] == {"not_faster": 10}
    assert content["reasons"] == [{"reason": "not_faster", "calls": 10, "remedy": REMEDIES["not_faster"]}]
    assert content["processes"][0]["state"] == "running"
    assert len(content["explanation"]) == 1


def test_earlier_runs_are_left_out_and_all_brings_them_back(tmp_path: Path) -> None:
    now = time.time()
    report(tmp_path / "status", ops={"vllm.gemm": op(1)})
    report(
        tmp_path / "status",
        pid=ended_pid(),
        started=now - 900,
        updated=now - 800,
        ops={"vllm.gemm": op(100)},
    )
    assert fib_status_json(tmp_path)["calls"] == 1
    assert "1 processes of earlier runs are not shown" in fib_status(tmp_path).stdout
    assert fib_status_json(tmp_path, "--all")["calls"] == 101


def test_an_unreadable_file_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    report(tmp_path / "status", ops={"vllm.gemm": op(7)})
    (tmp_path / "status" / "broken.json").write_text("{")
    result = fib_status(tmp_path)
    assert result.exit_code == 0
    assert "broken.json" in result.stdout
    assert cells(result.stdout, "vllm.gemm")[1] == "7"


def test_what_the_writer_reports_is_what_status_reads(tmp_path: Path) -> None:
    ops = {"vllm.gemm": op(3, 2, "fast", not_faster=1)}
    content = {"engine": {}, "switches": {"apply": True}, "rank": 0, "ops": ops, "capture": {}}
    writer = Writer(tmp_path / "data", status_dir=tmp_path / "status", snapshot=lambda: {"status": content})
    assert writer.flush()
    running = fib_status_json(tmp_path)
    assert [process["state"] for process in running["processes"]] == ["running"]
    assert running["ops"]["vllm.gemm"]["substituted"] == 2
    writer.close()
    assert [process["state"] for process in fib_status_json(tmp_path)["processes"]] == ["ended"]


def test_watch_refreshes_until_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(tmp_path / "status", ops={"vllm.gemm": op(1)})
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt
        report(tmp_path / "status", pid=ended_pid(), ops={"vllm.gemm": op(41)})

    monkeypatch.setattr(status_command.time, "sleep", nap)
    result = fib_status(tmp_path, "--watch", "--json")
    assert result.exit_code == 0
    assert [json.loads(line)["calls"] for line in result.stdout.splitlines()] == [1, 42]


def test_an_unusable_setting_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_STRICT", "perhaps")
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "FIB_STRICT" in result.output
    assert "Traceback" not in result.output
