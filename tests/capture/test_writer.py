"""The writer takes records from any thread to whole files, and the engine never notices what goes wrong."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from capture_cases import gather, lines, numbers, record, script

from fib_plugin.capture import archive as archive_module
from fib_plugin.capture import writer as writer_module
from fib_plugin.capture import writer_thread
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.capture.writer_thread import Scribe
from fib_plugin.dataset.layout import shard_of, this_host
from fib_plugin.schema import BuildSpec, Definition, Solution, SourceFile, Trace, parse

MakeWriter = Callable[..., Writer]


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# ---- what is written ---------------------------------------------------------------------------------------------


def test_a_record_becomes_a_workload_with_its_inputs_in_the_definitions_order(
    make_writer: MakeWriter, root: Path
) -> None:
    writer = make_writer(rank=3)
    assert writer.submit(record(7))
    assert writer.flush()
    (line,) = lines(root)
    trace = parse(Trace, line)
    assert trace.definition == "gather_r8"
    assert trace.solution is None
    assert trace.evaluation is None
    assert trace.workload.axes == {"n": 4}
    assert list(trace.workload.inputs) == ["table", "index", "scale"]
    assert line["workload"]["inputs"]["table"] == {"type": "random"}
    assert line["workload"]["inputs"]["scale"] == {"type": "scalar", "value": 0.5}
    assert numbers(root) == [7]
    (shard,) = (root / "workloads/gather").iterdir()
    assert shard.name.startswith("gather_r8.rank3.")
    assert shard.name.endswith(f"-{os.getpid()}.jsonl")


def test_the_definition_is_written_before_its_first_workload(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(record(1))
    writer.flush()
    path = root / "definitions/gather/gather_r8.json"
    assert parse(Definition, path.read_bytes()) == gather()


def test_the_displaced_op_is_written_beside_it(make_writer: MakeWriter, root: Path) -> None:
    solution = Solution(
        name="engine_1_gather__gather_r8",
        definition="gather_r8",
        author="engine",
        spec=BuildSpec(language="python", target_hardware=["cpu"], entry_point="main.py::run"),
        sources=[SourceFile(path="main.py", content="def run(table, index, scale): ...")],
    )
    writer = make_writer()
    writer.submit(Record(gather(), solution, {"n": 4}, {}))
    writer.flush()
    path = root / "solutions/engine/gather/gather_r8/engine_1_gather__gather_r8.json"
    assert parse(Solution, path.read_bytes()) == solution


def test_inputs_left_out_are_random(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(Record(gather(), None, {"n": 4}, {}))
    writer.flush()
    (line,) = lines(root)
    assert set(line["workload"]["inputs"]) == {"table", "index", "scale"}
    assert not (root / "blob").exists()


def test_equal_records_are_written_once(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    for number in (1, 2, 1, 2, 1):
        writer.submit(record(number))
    writer.flush()
    assert sorted(numbers(root)) == [1, 2]
    assert writer.stats["duplicates"] == 3


def test_records_that_differ_in_a_scalar_or_an_axis_are_no_duplicates(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    for axis, scale in ((4, 0.5), (4, 0.25), (5, 0.5)):
        writer.submit(Record(gather(), None, {"n": axis}, {"scale": scale}))
    writer.flush()
    assert len(lines(root)) == 3


def test_torch_tensors_are_taken(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(record(0, index=torch.full((4,), 9, dtype=torch.int32)))
    writer.flush()
    assert numbers(root) == [9]


def test_a_new_shape_reaches_the_disk_without_a_flush(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    assert writer.flush()  # the thread now sleeps until its next second
    time.sleep(0.05)
    writer.submit(record(1))
    # The thread is woken, it does not wait for its second; the limit leaves room for a slow disk.
    started = time.monotonic()
    until(lambda: (root / "workloads").exists() and numbers(root) == [1])
    assert time.monotonic() - started < 0.9


def test_records_from_many_threads_all_arrive(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()

    def submit(first: int) -> None:
        for number in range(first, first + 25):
            assert writer.submit(record(number))

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(30)
    assert sorted(numbers(root)) == list(range(100))


def test_a_record_waits_for_its_device_copy_and_holds_up_no_other(make_writer: MakeWriter, root: Path) -> None:
    arrived = threading.Event()
    late = record(1)
    late.ready = arrived.is_set
    writer = make_writer()
    writer.submit(late)
    writer.submit(record(2))
    until(lambda: writer.stats["written"] == 1)
    assert numbers(root) == [2]
    arrived.set()
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]


def test_a_device_copy_that_fails_is_counted(make_writer: MakeWriter, root: Path) -> None:
    broken = record(1)

    def ready() -> bool:
        raise RuntimeError("device-side assert")

    broken.ready = ready
    writer = make_writer()
    writer.submit(broken)
    writer.submit(record(2))
    assert writer.flush()
    assert numbers(root) == [2]
    assert writer.stats["dropped"] == {"device_error": 1}


def test_a_device_copy_that_never_arrives_does_not_hold_up_close(make_writer: MakeWriter) -> None:
    stuck = record(1)
    stuck.ready = lambda: False
    writer = make_writer()
    writer.submit(stuck)
    writer.close(10)
    assert writer.stats["dropped"] == {"not_ready": 1}
    assert writer.stats["queued"] == 0


def test_counts_and_status_are_written_every_second(make_writer: MakeWriter, root: Path, tmp_path: Path) -> None:
    calls = {"gather_r8": {'{"n":4}': 1}}
    writer = make_writer(status_dir=tmp_path / "status", snapshot=lambda: {"calls": calls, "status": {"rank": 0}})
    writer.start()
    until(lambda: list((root / "fib/counts").glob("*.json")))
    calls["gather_r8"]['{"n":4}'] = 2
    (path,) = (root / "fib/counts").glob("*.json")
    until(lambda: json.loads(path.read_text())["calls"] == calls)
    assert list((tmp_path / "status").glob("*.json"))


# ---- records that are wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"index": "text"},
        {"scale": float("nan")},
        {"no_such_input": 1},
        {"index": torch.ones(2, dtype=torch.complex64)},
    ],
)
def test_a_record_that_no_dataset_can_hold_is_dropped_alone(
    make_writer: MakeWriter, root: Path, bad: dict[str, Any]
) -> None:
    writer = make_writer()
    writer.submit(record(1, **bad))
    writer.submit(record(2))
    assert writer.flush()
    assert numbers(root) == [2]
    assert writer.stats["dropped"] == {"bad_record": 1}


def test_axes_that_are_not_the_definitions_are_refused(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(Record(gather(), None, {"m": 4}, {}))
    assert writer.flush()
    assert lines(root) == []
    assert writer.stats["dropped"] == {"bad_record": 1}


def test_a_name_that_leads_out_of_the_dataset_is_refused(make_writer: MakeWriter, root: Path, tmp_path: Path) -> None:
    writer = make_writer()
    writer.submit(record(1, gather(name="../../escaped")))
    assert writer.flush()
    assert writer.stats["dropped"] == {"bad_record": 1}
    assert not list(tmp_path.rglob("*escaped*"))


def test_what_is_no_record_at_all_is_dropped_without_raising(make_writer: MakeWriter) -> None:
    writer = make_writer()
    assert writer.submit(None) is False  # type: ignore[arg-type]
    assert writer.stats["dropped"] == {"bad_record": 1}


def test_a_definition_with_another_interface_stops_its_workloads_only(
    make_writer: MakeWriter, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = gather(rows=9, name="gather_r8")
    path = root / "definitions/gather/gather_r8.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive_module.dump_pretty(other))
    writer = make_writer()
    for number in range(3):
        writer.submit(record(number))
    writer.submit(record(5, gather(rows=16)))
    assert writer.flush()
    assert numbers(root) == [5]
    assert writer.stats["dropped"] == {"definition_conflict": 3}
    assert parse(Definition, path.read_bytes()) == other
    assert len([entry for entry in caplog.records if "definition_conflict" in entry.getMessage()]) == 1


def test_a_definition_with_another_reference_is_kept_and_its_workloads_too(make_writer: MakeWriter, root: Path) -> None:
    other = gather().model_copy(update={"reference": "def run(table, index, scale):\n    return table\n"})
    path = root / "definitions/gather/gather_r8.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive_module.dump_pretty(other))
    writer = make_writer()
    writer.submit(record(1))
    writer.submit(record(2))
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]
    assert writer.stats["errors"] == {"definition_differs": 1}
    assert parse(Definition, path.read_bytes()).reference == other.reference


# ---- a disk that refuses -----------------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    messages = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    return [message for message in messages if f": {reason}: " in message]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EROFS, "read_only"),
        (errno.EACCES, "permission_denied"),
        (errno.EIO, "io_error"),
    ],
)
def test_records_refused_by_the_disk_are_kept_until_it_takes_them(
    make_writer: MakeWriter,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    reason: str,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    writer = make_writer()
    with monkeypatch.context() as patch:
        patch.setattr(archive_module, "write_temporary", refuse)
        for value in range(30):
            assert writer.submit(record(value))
        until(lambda: writer.stats["errors"].get(reason, 0) >= 8)
        assert not writer.flush(0.3)
        assert writer.stats["queued"] == 30
    assert writer.flush()
    assert sorted(numbers(root)) == list(range(30))
    assert writer.stats["dropped"] == {}
    assert len(warnings_of(caplog, reason)) == 1
    assert "Remedy" in warnings_of(caplog, reason)[0]


def test_past_the_bound_records_are_dropped_under_the_disks_reason(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = make_writer(queue_limit=5)
    with monkeypatch.context() as patch:
        patch.setattr(archive_module, "write_temporary", refuse)
        for value in range(5):
            assert writer.submit(record(value))
        until(lambda: "disk_full" in writer.stats["errors"])
        assert not writer.submit(record(5))
    assert writer.flush()
    assert sorted(numbers(root)) == [0, 1, 2, 3, 4]
    assert writer.stats["dropped"] == {"disk_full": 1}


def test_records_still_refused_at_close_are_counted(make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(archive_module, "write_temporary", refuse)
    writer = make_writer()
    for value in range(20):
        writer.submit(record(value))
    writer.close(10)
    assert writer.stats["dropped"] == {"read_only": 20}
    assert writer.stats["queued"] == 0
    assert not writer.submit(record(99))
    assert writer.stats["dropped"]["closed"] == 1


def test_one_bad_folder_does_not_hold_up_the_others(make_writer: MakeWriter, root: Path) -> None:
    (root / "workloads").mkdir(parents=True)
    (root / "workloads/gather").touch()
    other = Definition.model_validate({**gather().model_dump(), "op_type": "other", "name": "other"})
    writer = make_writer()
    for value in range(20):
        writer.submit(record(value))
    until(lambda: writer.stats["errors"].get("folder_removed", 0) >= 8)
    for value in range(20, 25):
        writer.submit(record(value, other))
    until(lambda: writer.stats["written"] == 5)
    (root / "workloads/gather").unlink()
    assert writer.flush()
    assert sorted(numbers(root)) == list(range(25))


def test_a_removed_folder_is_made_again_with_its_definition(
    make_writer: MakeWriter, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    writer.submit(record(1))
    assert writer.flush()
    shutil.rmtree(root)
    writer.submit(record(2))
    assert writer.flush()
    assert numbers(root) == [2]
    assert (root / "definitions/gather/gather_r8.json").exists()
    assert writer.stats["errors"] == {"folder_removed": 1}
    assert len(warnings_of(caplog, "folder_removed")) == 1


def test_what_was_lost_with_a_folder_is_no_duplicate_afterwards(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(record(1))
    assert writer.flush()
    shutil.rmtree(root)
    writer.submit(record(2))
    assert writer.flush()
    writer.submit(record(1))
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]


def test_a_root_that_cannot_be_made_is_waited_for(make_writer: MakeWriter, root: Path) -> None:
    root.write_text("a file stands where the dataset should be")
    writer = make_writer()
    writer.submit(record(1))
    until(lambda: "folder_removed" in writer.stats["errors"])
    root.unlink()
    assert writer.flush()
    assert numbers(root) == [1]


READ_ONLY_SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy
from capture_cases import record, numbers
from fib_plugin.capture.writer import Writer
folder = Path(sys.argv[1])
if os.getuid() == 0:
    os.seteuid(65534)
folder.mkdir()
folder.chmod(0o555)
writer = Writer(folder / "dataset")
writer.submit(record(1))
end = time.monotonic() + 10
while "permission_denied" not in writer.stats["errors"] and time.monotonic() < end:
    time.sleep(0.01)
assert writer.stats["errors"].get("permission_denied"), writer.stats
folder.chmod(0o755)
assert writer.flush(10), writer.stats
assert numbers(folder / "dataset") == [1]
print("recovered")
"""


def test_a_read_only_folder_is_survived_and_used_once_it_is_writable(tmp_path_factory: pytest.TempPathFactory) -> None:
    # The superuser may write anywhere, so the process gives that up first; its folder must then be reachable for all.
    import tempfile

    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o777)
        process = script(READ_ONLY_SCRIPT, Path(parent) / "read_only", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
    assert out.strip() == b"recovered", err.decode()
    assert err.count(b"permission_denied") == 1


def test_the_quota_stops_writing_and_room_starts_it_again(
    make_writer: MakeWriter, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = root / "blob/ballast"
    ballast.parent.mkdir(parents=True)
    ballast.write_bytes(b"x" * 100_000)
    writer = make_writer(quota_bytes=100_000)
    writer.start()
    until(lambda: writer._scribe.archive.quota.used == 100_000)
    writer.submit(record(1))
    until(lambda: "quota" in writer.stats["errors"])
    assert lines(root) == []
    ballast.unlink()
    assert writer.flush(10)
    assert numbers(root) == [1]
    assert len(warnings_of(caplog, "quota")) == 1


# ---- the engine's side -------------------------------------------------------------------------------------------


def test_an_overflowing_queue_drops_and_never_blocks(make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    real = archive_module.write_temporary

    def slow(*arguments: Any, **options: Any) -> None:
        release.wait(30)
        real(*arguments, **options)

    monkeypatch.setattr(archive_module, "write_temporary", slow)
    writer = make_writer(queue_limit=16)
    records = [record(value) for value in range(500)]
    started = time.monotonic()
    accepted = sum(writer.submit(entry) for entry in records)
    elapsed = time.monotonic() - started
    release.set()
    assert accepted == 16
    assert elapsed < 2.0
    assert writer.stats["dropped"] == {"queue_full": 484}
    assert writer.flush(20)
    assert writer.stats["written"] == 16


def test_waiting_records_are_bounded_in_memory_too(make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    real = archive_module.write_temporary

    def slow(*arguments: Any, **options: Any) -> None:
        release.wait(30)
        real(*arguments, **options)

    monkeypatch.setattr(archive_module, "write_temporary", slow)
    writer = make_writer(queue_bytes=1000)
    accepted = [writer.submit(record(value, table=numpy.zeros(100, dtype=numpy.float32))) for value in range(4)]
    release.set()
    assert accepted == [True, True, False, False]
    assert writer.flush()
    assert writer.submit(record(9, table=numpy.zeros(100, dtype=numpy.float32)))


def test_a_defect_in_the_thread_costs_one_batch_and_is_told_once(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    with monkeypatch.context() as patch:
        patch.setattr(Scribe, "_store", lambda self, entries: 1 / 0 if entries else None)
        for value in range(3):
            writer.submit(record(value))
            assert writer.flush()
    assert writer.stats["dropped"] == {"writer_failed": 3}
    writer.submit(record(9))
    assert writer.flush()
    assert numbers(root) == [9]
    assert len(warnings_of(caplog, "writer_failed")) == 1


def test_what_should_end_the_thread_costs_no_record_and_is_told_once(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    real = archive_module.Archive.commit
    deaths = [1, 2]

    def die_twice(self: Any, *arguments: Any) -> None:
        if deaths:
            deaths.pop()
            raise SystemExit
        real(self, *arguments)

    monkeypatch.setattr(archive_module.Archive, "commit", die_twice)
    writer.submit(record(1))
    until(lambda: writer.stats["written"] == 1)  # nobody calls submit again: a known shape is only counted
    assert writer.submit(record(2))
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]
    assert writer.stats["queued"] == 0
    assert writer.stats["errors"] == {"writer_failed": 2}
    assert len(warnings_of(caplog, "writer_failed")) == 1


def test_an_exception_thrown_into_the_sleeping_thread_does_not_end_the_counts(
    make_writer: MakeWriter, root: Path
) -> None:
    counts = {"calls": {"d": {"{}": 1}}}
    writer = make_writer(snapshot=lambda: counts)
    assert writer.flush()
    assert writer._thread is not None
    assert writer._thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(writer._thread.ident), ctypes.py_object(SystemExit))
    until(lambda: writer.stats["errors"] == {"writer_failed": 1})
    counts["calls"]["d"]["{}"] = 2
    (path,) = (root / "fib/counts").glob("*.json")
    until(lambda: json.loads(path.read_text())["calls"] == counts["calls"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_gone_is_replaced_and_its_records_are_not_lost(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    with monkeypatch.context() as patch:

        def die(self: Scribe, *arguments: Any) -> None:
            raise SystemExit

        patch.setattr(Scribe, "_store", die)
        patch.setattr(Scribe, "_notice", die)  # it dies of saying why it died
        writer.submit(record(1))
        assert writer._thread is not None
        writer._thread.join(10)
        assert not writer._thread.is_alive()
    assert writer.submit(record(2))
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]


def test_a_record_that_ends_the_thread_each_time_is_given_up(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = archive_module.Archive.stage

    def die_of_the_first(self: Any, entry: Any) -> Any:
        if entry.record.axes["n"] == 1:
            raise SystemExit
        return real(self, entry)

    monkeypatch.setattr(archive_module.Archive, "stage", die_of_the_first)
    writer = make_writer()
    writer.submit(Record(gather(), None, {"n": 1}, {}))
    until(lambda: writer.stats["dropped"] == {"writer_failed": 1})
    writer.submit(record(2))
    assert writer.flush()
    assert numbers(root) == [2]


def test_a_thread_that_cannot_be_started_costs_nothing(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    with monkeypatch.context() as patch:

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(writer_module.threading.Thread, "start", refuse)
        assert writer.submit(record(1))
    assert writer.submit(record(2))
    assert writer.flush()
    assert sorted(numbers(root)) == [1, 2]


def test_no_folder_is_made_before_there_is_something_to_write(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer(snapshot=lambda: {"calls": {}, "status": {}})
    writer.start()
    assert writer.flush()
    writer.close()
    assert not root.exists()


def test_the_maker_of_a_record_is_told_what_became_of_it(make_writer: MakeWriter, root: Path) -> None:
    told: list[tuple[str, bool]] = []
    writer = make_writer()
    for entry in (record(1), record(1), record(2, index="text")):
        entry.settled = lambda uuid, new: told.append((uuid, new))
        writer.submit(entry)
    assert writer.flush()
    (line,) = lines(root)
    uuid = line["workload"]["uuid"]
    # Of the batch's two equal ones, the second is known as soon as the first is on its way.
    assert sorted(told) == sorted([("", False), (uuid, True), (uuid, False)])


def test_a_number_that_came_from_a_device_is_kept_as_a_number(make_writer: MakeWriter, root: Path) -> None:
    writer = make_writer()
    writer.submit(record(1, scale=torch.tensor(0.25)))
    assert writer.flush()
    (line,) = lines(root)
    assert line["workload"]["inputs"]["scale"] == {"type": "scalar", "value": 0.25}


def test_a_record_that_could_not_be_made_is_counted_and_told_once(
    make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    for _ in range(2):
        writer.refuse(Loss.SNAPSHOT_POOL_FULL)
        assert writer.flush()
    assert writer.stats["dropped"] == {"snapshot_pool_full": 2}
    assert len(warnings_of(caplog, "snapshot_pool_full")) == 1


def test_a_device_copy_that_is_overdue_is_given_up(make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_thread, "_OVERDUE", 0.05)
    stuck = record(1)
    stuck.ready = lambda: False
    writer = make_writer()
    writer.submit(stuck)
    assert writer.flush()
    assert writer.stats["dropped"] == {"not_ready": 1}


def test_the_rank_is_asked_at_the_first_write_and_kept(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "rank_name", lambda: rank[0])
    rank = ["0"]
    writer = make_writer()
    assert writer.rank == "0"
    rank[0] = "tp1dp0"
    writer.submit(record(1))
    assert writer.flush()
    rank[0] = "tp3"
    writer.submit(record(2))
    assert writer.flush()
    assert writer.rank == "tp1dp0"
    (file,) = (root / "workloads/gather").iterdir()
    shard = shard_of(file)
    assert shard is not None
    assert (shard.rank, shard.host, shard.pid) == ("tp1dp0", this_host(), os.getpid())


def test_an_orderly_exit_writes_what_is_queued(root: Path) -> None:
    source = """
import sys
from pathlib import Path
from capture_cases import record
from fib_plugin.capture.writer import Writer
writer = Writer(Path(sys.argv[1]))
for number in range(40):
    writer.submit(record(number))
"""
    assert script(source, root).wait(60) == 0
    assert sorted(numbers(root)) == list(range(40))


def test_importing_the_writer_imports_no_torch() -> None:
    source = "import sys, fib_plugin.capture.writer; sys.exit('torch' in sys.modules)"
    assert script(source).wait(60) == 0


def test_constants_for_random_inputs_are_the_schemas(make_writer: MakeWriter) -> None:
    assert RANDOM.type == "random"
