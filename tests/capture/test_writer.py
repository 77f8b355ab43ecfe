"""The writer takes records from any thread to whole files, and the engine never notices what goes wrong."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_cases import MakeWriter, gather, lines, numbers, record, until

from fib_plugin.capture import archive as archive_module
from fib_plugin.capture.writer import Record
from fib_plugin.schema import BuildSpec, Definition, Solution, SourceFile, Trace, parse

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
