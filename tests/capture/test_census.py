"""The processes of one engine are added up, ended ones too, others are not, and no count ever goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board.serving_cases import report

from fib_plugin.capture.census import Census, Series
from fib_plugin.capture.lineage import identity, lineage

Start = Callable[[], "subprocess.Popen[bytes]"]


def op(substituted: int = 0, solution: str | None = None, declined: int = 0, **fallbacks: int) -> dict[str, Any]:
    """What one adapter counted for one definition, and calls that no definition expresses."""
    calls = substituted + sum(fallbacks.values())
    definition = {"calls": calls, "substituted": substituted, "solution": solution, "fallbacks": fallbacks}
    all_fallbacks = Counter(fallbacks)
    all_fallbacks["unsupported_argument"] += declined
    return {
        "calls": calls + declined,
        "substituted": substituted,
        "fallbacks": all_fallbacks,
        "definitions": {"gemm": definition},
    }


def series(reason: str = "", definition: str = "gemm", name: str = "vllm.gemm") -> Series:
    return ("calls", name, definition, "fallback" if reason else "substituted", reason)


class Own:
    """What this process counts; a test sets it."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        return self.status


@pytest.fixture
def own() -> Own:
    return Own()


@pytest.fixture
def census(tmp_path: Path, own: Own) -> Census:
    return Census(tmp_path, own)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts children that live until the test ends or kills them."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def child(folder: Path, process: subprocess.Popen[bytes], **content: Any) -> Path:
    """The status file of a child of this process."""
    line = [identity(process.pid) or f"{process.pid}.1", *lineage()]
    return report(folder, pid=process.pid, lineage=line, **content)


def test_calls_are_told_apart_by_op_definition_outcome_and_reason(census: Census, own: Own) -> None:
    own.status = {"ops": {"vllm.gemm": op(5, "fast", not_faster=2, probation=1), "vllm.norm": op(apply_off=4)}}
    counts = census.read().counts
    assert {key: count for key, count in counts.items() if key[0] == "calls"} == {
        series(): 5,
        series("not_faster"): 2,
        series("probation"): 1,
        series(name="vllm.norm"): 0,
        series("apply_off", name="vllm.norm"): 4,
    }


def test_calls_that_no_definition_expresses_are_counted_without_one(census: Census, own: Own) -> None:
    own.status = {"ops": {"vllm.gemm": op(5, declined=3, unsupported_argument=1)}}
    counts = census.read().counts
    assert counts[series("unsupported_argument", definition="")] == 3
    assert counts[series("unsupported_argument")] == 1


def test_children_are_added_up_with_this_process(tmp_path: Path, census: Census, own: Own, start: Start) -> None:
    own.status = {"ops": {"vllm.gemm": op(1)}}
    for _ in range(2):
        child(tmp_path, start(), ops={"vllm.gemm": op(10, not_faster=1)})
    totals = census.read()
    assert totals.counts[series()] == 21
    assert totals.counts[series("not_faster")] == 2
    assert totals.processes == 3


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["7.1", "1.1"],
        [f"7.{time.time_ns()}", f"{os.getpid()}.1"],  # a process of our number that ended long ago
    ],
)
def test_processes_of_another_engine_are_left_out(tmp_path: Path, census: Census, line: list[str]) -> None:
    report(tmp_path, pid=7, lineage=line, ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 0


def test_a_process_of_another_host_is_left_out_though_its_lineage_looks_the_same(
    tmp_path: Path, census: Census
) -> None:
    report(tmp_path, host="elsewhere", pid=7, lineage=["7.1", *lineage()], ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 0


def test_an_ended_child_still_counts_but_no_longer_runs_anything(tmp_path: Path, census: Census, start: Start) -> None:
    process = start()
    quarantined = [{"solution": "bad", "reason": "wrong_here"}]
    child(tmp_path, process, ops={"vllm.gemm": op(10, "fast")}, quarantined=quarantined, capture={"queued": 3})
    totals = census.read()
    assert (totals.processes, totals.solutions, totals.quarantined, totals.queued) == (
        1,
        {"vllm.gemm": {"fast"}},
        {"bad"},
        3,
    )
    process.kill()
    process.wait()
    totals = census.read()
    assert totals.counts[series()] == 10
    assert (totals.processes, totals.solutions, totals.quarantined, totals.queued) == (0, {}, set(), 0)


def test_a_child_that_ended_before_the_first_look_counts_though_its_parent_is_gone_too(
    tmp_path: Path, census: Census
) -> None:
    report(tmp_path, pid=7, lineage=["7.1", "6.1", *lineage()], ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 10


def test_a_replaced_child_adds_to_its_predecessor(tmp_path: Path, census: Census, start: Start) -> None:
    first = start()
    child(tmp_path, first, ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 10
    first.kill()
    first.wait()
    child(tmp_path, start(), ops={"vllm.gemm": op(2)})
    assert census.read().counts[series()] == 12


def test_counts_stay_when_the_files_are_removed(tmp_path: Path, census: Census, start: Start) -> None:
    file = child(tmp_path, start(), ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 10
    file.unlink()
    assert census.read().counts[series()] == 10


def test_a_file_that_changed_is_read_again_and_a_count_that_falls_is_not_followed(
    tmp_path: Path, census: Census, start: Start
) -> None:
    file = child(tmp_path, start(), ops={"vllm.gemm": op(10)})
    for counted, shown in ((10, 10), (14, 14), (13, 14), (20, 20)):
        content = json.loads(file.read_text())
        file.unlink()
        content["ops"]["vllm.gemm"]["definitions"]["gemm"]["substituted"] = counted
        file.write_text(json.dumps(content))
        assert census.read().counts[series()] == shown


def test_a_count_of_this_process_that_falls_is_not_followed(census: Census, own: Own) -> None:
    for counted, shown in ((10, 10), (9, 10), (12, 12)):
        own.status = {"ops": {"vllm.gemm": op(counted)}}
        assert census.read().counts[series()] == shown


def test_this_process_is_not_counted_twice(tmp_path: Path, census: Census, own: Own) -> None:
    own.status = {"ops": {"vllm.gemm": op(10)}}
    report(tmp_path, lineage=lineage(), ops={"vllm.gemm": op(9)})
    assert census.read().counts[series()] == 10


def test_what_this_process_counted_before_it_was_last_enabled_counts(tmp_path: Path, census: Census, own: Own) -> None:
    own.status = {"ops": {"vllm.gemm": op(10)}}
    report(tmp_path, lineage=lineage(), ended=time.time(), ops={"vllm.gemm": op(9)})
    totals = census.read()
    assert totals.counts[series()] == 19
    assert totals.processes == 1


def test_the_descendants_of_another_root_are_those_of_the_group(tmp_path: Path, own: Own) -> None:
    parent = identity(os.getppid())
    report(tmp_path, pid=7, lineage=["7.1", *lineage()[1:]], ops={"vllm.gemm": op(10)})
    assert Census(tmp_path, own).read().counts[series()] == 0
    assert Census(tmp_path, own, parent).read().counts[series()] == 10


def test_a_forked_process_counts_its_own_children_only(tmp_path: Path, census: Census, own: Own, start: Start) -> None:
    child(tmp_path, start(), ops={"vllm.gemm": op(10)})
    assert census.read().counts[series()] == 10
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            own.status = {"ops": {"vllm.gemm": op(1)}}
            report(tmp_path, pid=7, lineage=["7.1", *lineage()], ops={"vllm.gemm": op(2)})
            os.write(writing, str(census.read().counts[series()]).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b"3"


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, census: Census, start: Start) -> None:
    host = child(tmp_path, start(), ops={"vllm.gemm": op(10)}).name.partition(".")[0]
    (tmp_path / f"{host}.1.1.json").write_text("{")
    (tmp_path / f"{host}.2.1.json").write_bytes(b"\xff")
    (tmp_path / f"{host}.3.1.json").write_text('{"ops": 3}')
    (tmp_path / f"{host}.4.1.json").mkdir()
    assert census.read().counts[series()] == 10


def test_without_a_folder_this_process_is_all(tmp_path: Path, own: Own) -> None:
    own.status = {"ops": {"vllm.gemm": op(10)}, "switches": {"apply": True}, "engine": {"vllm": "0.32.0"}}
    totals = Census(tmp_path / "none", own).read()
    assert totals.counts[series()] == 10
    assert (totals.switches, totals.engine) == ({"apply": True}, {"vllm": "0.32.0"})


def test_records_are_counted_by_what_became_of_them(census: Census, own: Own) -> None:
    lost = {"dropped": {"disk_full": 2, "queue_full": 1}, "errors": {"disk_full": 7}}
    own.status = {"capture": {"written": 5, "duplicates": 4, "bytes": 99, **lost}}
    assert census.read().counts == {
        ("capture_records", "written", ""): 5,
        ("capture_records", "duplicate", ""): 4,
        ("capture_records", "dropped", "disk_full"): 2,
        ("capture_records", "dropped", "queue_full"): 1,
        ("capture_errors", "disk_full"): 7,
        ("capture_bytes",): 99,
    }


_CHILD = """
import json, sys
from pathlib import Path
from fib_plugin.capture.writer import Writer
folder, status = Path(sys.argv[1]), json.loads(sys.argv[2])
writer = Writer(folder.parent / "data", status_dir=folder, snapshot=lambda: {"status": status})
assert writer.flush()
print("reported", flush=True)
sys.stdin.read()
"""


def test_what_the_writer_of_a_child_reports_is_what_is_counted(tmp_path: Path, own: Own) -> None:
    folder = tmp_path / "status"
    census = Census(folder, own)
    status = json.dumps({"ops": {"vllm.gemm": op(10)}})
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, folder, status], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reported\n"
    totals = census.read()
    assert (totals.counts[series()], totals.processes) == (10, 1)
    process.communicate("")
    totals = census.read()
    assert (totals.counts[series()], totals.processes) == (10, 0)
