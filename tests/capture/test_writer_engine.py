"""The writer as the engine meets it: nothing blocks, nothing raises, a thread that dies costs nothing."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from capture_cases import MakeWriter, gather, lines, numbers, record, script, until, warnings_of

from fib_plugin.capture import archive as archive_module
from fib_plugin.capture import writer as writer_module
from fib_plugin.capture import writer_thread
from fib_plugin.capture.loss import Loss
from fib_plugin.capture.writer import RANDOM, Record
from fib_plugin.capture.writer_thread import Scribe
from fib_plugin.dataset.layout import shard_of, this_host

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
from capture_cases import MakeWriter, record, until, warnings_of
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


def test_records_of_a_burst_are_gathered_so_that_the_thread_takes_the_interpreter_once(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    assert writer.flush()  # the thread is up and waits
    batches: list[int] = []
    store = Scribe._store
    monkeypatch.setattr(
        Scribe,
        "_store",
        lambda self, entries: (batches.append(len(entries)) if entries else None, store(self, entries)),
    )
    for number in range(20):
        assert writer.submit(record(number))
    until(lambda: writer.stats["written"] == 20)  # nobody asks for a flush
    assert len(batches) <= 4
    assert sorted(numbers(root)) == list(range(20))


def test_what_is_on_its_way_from_a_device_is_not_gathered(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fib_plugin.capture.writer_intake.GATHER", 3600.0)
    writer = make_writer()
    assert writer.flush()
    waiting = record(1)
    waiting.ready = lambda: True
    assert writer.submit(waiting)
    until(lambda: writer.stats["written"] == 1)
    assert numbers(root) == [1]


def test_a_queue_that_fills_up_is_not_waited_for(
    make_writer: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fib_plugin.capture.writer_intake.GATHER", 3600.0)
    writer = make_writer(queue_limit=8)
    assert writer.flush()
    for number in range(4):
        assert writer.submit(record(number))
    until(lambda: writer.stats["written"] >= 2)
