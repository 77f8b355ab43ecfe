"""What processes report is summed up over the run that a reader means, and says why nothing was substituted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from serving_cases import ended_pid, op, report

from fib_plugin.board.serving import explain, read_serving
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.dispatch.reason import REMEDIES, Reason


def test_calls_of_several_processes_are_added_up(tmp_path: Path) -> None:
    report(tmp_path, ops={"vllm.gemm": op(10, 4, "fast", not_faster=6)})
    report(tmp_path, pid=ended_pid(), ops={"vllm.gemm": op(5, 1, "faster", not_faster=1, unmeasured_shape=3)})
    serving = read_serving(tmp_path)
    gemm = serving.ops["vllm.gemm"]
    assert (gemm.calls, gemm.substituted) == (15, 5)
    assert gemm.fallbacks == {"not_faster": 7, "unmeasured_shape": 3}
    totals = gemm.definitions["gemm_n8_k4"]
    assert (totals["calls"], totals["substituted"], sorted(totals["solutions"])) == (15, 5, ["fast", "faster"])


def test_a_process_that_lives_is_running_and_one_that_was_killed_has_ended(tmp_path: Path) -> None:
    dead = ended_pid()
    report(tmp_path)
    report(tmp_path, pid=dead)
    states = {process.status.pid: process.alive for process in read_serving(tmp_path).processes}
    assert states == {os.getpid(): True, dead: False}


def test_a_process_that_said_it_ended_has_ended_though_its_number_lives(tmp_path: Path) -> None:
    report(tmp_path, ended=time.time())
    assert [process.alive for process in read_serving(tmp_path).processes] == [False]


def test_a_number_that_another_process_took_over_is_not_taken_for_the_reporter(tmp_path: Path) -> None:
    report(tmp_path, started=time.time() - 10 * 24 * 3600, updated=time.time() - 9 * 24 * 3600)
    assert [process.alive for process in read_serving(tmp_path).processes] == [False]


def test_a_process_of_another_host_counts_as_running_while_it_reports(tmp_path: Path) -> None:
    now = time.time()
    report(tmp_path, host="other", pid=1, started=now - 100, updated=now - 5)
    report(tmp_path, host="other", pid=2, started=now - 100, updated=now - 90)
    states = {process.status.pid: process.alive for process in read_serving(tmp_path).processes}
    assert states == {1: True, 2: False}


def run_of(folder: Path, start: float, end: float, pid: int) -> None:
    now = time.time()
    report(folder, pid=pid, host="elsewhere", started=now + start, updated=now + end, ended=now + end)


def test_only_the_latest_run_counts_unless_all_are_asked_for(tmp_path: Path) -> None:
    run_of(tmp_path, -500, -400, 1)
    run_of(tmp_path, -300, -100, 2)
    run_of(tmp_path, -290, -200, 3)
    run_of(tmp_path, -320, -295, 4)
    serving = read_serving(tmp_path)
    assert sorted(process.status.pid for process in serving.processes) == [2, 3, 4]
    assert serving.hidden == 1
    every = read_serving(tmp_path, every=True)
    assert len(every.processes) == 4
    assert every.hidden == 0


def test_ended_workers_of_a_running_engine_count_with_it(tmp_path: Path) -> None:
    report(tmp_path)
    run_of(tmp_path, -500, -400, 1)
    run_of(tmp_path, 0.1, 0.2, 2)
    serving = read_serving(tmp_path)
    assert sorted(process.status.pid for process in serving.processes) == sorted([os.getpid(), 2])


def test_quarantined_solutions_notes_and_hooks_are_listed_once(tmp_path: Path) -> None:
    quarantined = [{"solution": "s", "definition": "d", "reason": "solution_raised", "hash": "abc"}]
    targets = [{"adapter": "vllm.gemm", "target": "m:f", "state": "missing", "detail": ""}]
    for pid in (os.getpid(), ended_pid()):
        report(tmp_path, pid=pid, quarantined=quarantined, targets=targets, notes=["slow disk"])
    serving = read_serving(tmp_path)
    assert serving.quarantined == [{**quarantined[0], "on_disk": False}]
    assert serving.targets == targets
    assert serving.notes == ["slow disk"]


def test_records_on_disk_outlive_the_processes_that_wrote_them(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path / "quarantine")
    kept.add(Record(solution="s", definition="d", hash="abc", reason="solution_raised", axes={"M": 4}, hardware="here"))
    (entry,) = read_serving(tmp_path / "status", quarantine=kept.folder).quarantined
    assert (entry["solution"], entry["hash"], entry["axes"], entry["on_disk"]) == ("s", "abc", {"M": 4}, True)


def test_a_solution_that_processes_and_the_disk_tell_of_is_listed_once(tmp_path: Path) -> None:
    kept = Quarantine(tmp_path / "quarantine")
    for name, hash in (("s", "abc"), ("t", "def")):
        kept.add(Record(solution=name, definition="d", hash=hash, reason="solution_raised", hardware="here"))
    entries = [
        {"solution": "renamed", "definition": "d", "reason": "quarantined", "hash": "abc"},
        {"solution": "t", "definition": "d", "reason": "solution_raised", "hash": ""},
        {"solution": "s", "definition": "d", "reason": "build_failed", "hash": "other content"},
    ]
    for pid in (os.getpid(), ended_pid()):
        report(tmp_path / "status", pid=pid, quarantined=[{**entry, "detail": str(pid)} for entry in entries])
    found = read_serving(tmp_path / "status", quarantine=kept.folder).quarantined
    assert sorted((entry["solution"], entry["hash"], entry["on_disk"]) for entry in found) == [
        ("s", "abc", True),
        ("s", "other content", False),
        ("t", "def", True),
    ]


def test_a_damaged_record_on_disk_is_a_problem_and_the_rest_counts(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "abc-1.json").write_text("{")
    report(tmp_path / "status", ops={"vllm.gemm": op(10)})
    serving = read_serving(tmp_path / "status", quarantine=tmp_path / "quarantine")
    assert serving.calls == 10
    assert "abc-1.json" in serving.problems[0]


def test_measurements_of_other_hardware_are_warned_of_while_they_count(tmp_path: Path) -> None:
    report(tmp_path, switches={"apply": True, "any_hardware": False})
    assert read_serving(tmp_path).warnings == []
    report(tmp_path, pid=ended_pid(), switches={"apply": True, "any_hardware": True})
    (warning,) = read_serving(tmp_path).warnings
    assert "FIB_APPLY_ANY_HARDWARE" in warning


def test_captured_and_dropped_records_are_added_up(tmp_path: Path) -> None:
    report(tmp_path, capture={"written": 3, "dropped": {"disk_full": 2}, "errors": {"disk_full": 9}, "seen": 100})
    report(tmp_path, pid=ended_pid(), capture={"written": 1, "dropped": {"disk_full": 1}, "seen": 10})
    capture = read_serving(tmp_path).capture
    assert capture == {"seen": 110, "written": 4, "dropped": {"disk_full": 3}, "errors": {"disk_full": 9}}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"pid": "text"}'])
def test_a_file_that_cannot_be_read_is_named_and_the_rest_counts(tmp_path: Path, content: str) -> None:
    report(tmp_path, ops={"vllm.gemm": op(10)})
    (tmp_path / "broken.json").write_text(content)
    serving = read_serving(tmp_path)
    assert serving.calls == 10
    assert len(serving.problems) == 1
    assert "broken.json" in serving.problems[0]


def test_fields_of_a_newer_plugin_are_ignored(tmp_path: Path) -> None:
    path = report(tmp_path, ops={"vllm.gemm": {**op(10), "new": 1}})
    path.write_text(json.dumps({**json.loads(path.read_text()), "new": [1, 2]}))
    assert read_serving(tmp_path).calls == 10


def test_no_report_at_all_is_explained(tmp_path: Path) -> None:
    (line,) = explain(read_serving(tmp_path / "nothing"))
    assert "FIB_ENABLE_APPLY=1" in line


def test_no_call_at_all_is_explained(tmp_path: Path) -> None:
    report(tmp_path)
    (line,) = explain(read_serving(tmp_path))
    assert "fib doctor" in line


def test_reasons_are_explained_most_frequent_first_with_their_remedies(tmp_path: Path) -> None:
    report(tmp_path, ops={"vllm.gemm": op(6, no_solution=6), "vllm.rope": op(9, not_faster=8, no_solution=1)})
    first, second = explain(read_serving(tmp_path))
    assert first == f"not_faster (8 calls): {REMEDIES['not_faster']}"
    assert second == f"no_solution (7 calls): {REMEDIES['no_solution']}"


def test_that_apply_is_off_is_said_first(tmp_path: Path) -> None:
    report(tmp_path, switches={"apply": False, "tracing": True}, ops={"vllm.gemm": op(6, apply_off=6)})
    (line,) = explain(read_serving(tmp_path))
    assert "FIB_ENABLE_APPLY=1" in line


def test_where_something_was_substituted_nothing_needs_explaining(tmp_path: Path) -> None:
    report(tmp_path, ops={"vllm.gemm": op(6, 1, "fast", not_faster=5)})
    assert explain(read_serving(tmp_path)) == []


def test_a_reason_of_a_newer_plugin_is_shown_without_a_remedy_of_ours(tmp_path: Path) -> None:
    report(tmp_path, ops={"vllm.gemm": op(6, brand_new=6)})
    assert explain(read_serving(tmp_path)) == ["brand_new (6 calls): see the log"]


def test_every_reason_has_a_remedy() -> None:
    assert {reason.value for reason in Reason} == set(REMEDIES)
