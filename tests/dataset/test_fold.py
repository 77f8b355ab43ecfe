"""Folding the shards of one dataset."""

import fcntl
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import pytest
from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import TraceSet, merge, validate
from fib_plugin.dataset.layout import this_host
from fib_plugin.dataset.rejected import load_rejected


def gone() -> int:
    """The number of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def shard(rank: int, pid: int, host: str | None = None) -> str:
    return f"workloads/gather/{NAME}.rank{rank}.{host + '-' if host else ''}{pid}.jsonl"


def uuids(dataset: Dataset) -> list[str]:
    return [line["workload"]["uuid"] for line in dataset.read(WORKLOADS)]


def test_shards_become_one_file(dataset: Dataset) -> None:
    first, second = shard(0, gone()), shard(1, gone(), this_host())
    dataset.lines(WORKLOADS, dataset.workload("w1"))
    dataset.lines(first, dataset.workload("w2", m=3))
    dataset.lines(second, dataset.workload("w3", m=4))
    report = merge(dataset.root)
    assert uuids(dataset) == ["w1", "w2", "w3"]
    assert not (dataset.root / first).exists()
    assert not (dataset.root / second).exists()
    assert (report.added["workloads"], len(report.shards_folded), report.problems) == (2, 2, [])


def test_lines_are_kept_byte_for_byte(dataset: Dataset) -> None:
    raw = json.dumps({"zzz": {"unknown": [1.50, None]}, **dataset.workload("w2")}, indent=None)
    dataset.lines(shard(0, gone()), raw)
    merge(dataset.root)
    assert (dataset.root / WORKLOADS).read_text() == raw + "\n"


def test_equal_workloads_are_one_whatever_their_uuid(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"), dataset.workload("w2"))
    dataset.lines(shard(0, gone()), dataset.workload("w3"), dataset.workload("w4", n=9))
    report = merge(dataset.root)
    assert uuids(dataset) == ["w1", "w4"]
    assert report.duplicates == 2


def test_workloads_are_equal_by_the_bytes_of_their_blobs(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.indexed("w1", (0, 1)))
    dataset.lines(shard(0, gone()), dataset.indexed("w2", (0, 1)), dataset.indexed("w3", (1, 0)))
    merge(dataset.root)
    assert uuids(dataset) == ["w1", "w3"]


def test_only_blobs_that_nobody_names_any_more_are_removed(dataset: Dataset) -> None:
    dataset.solution()
    kept = dataset.indexed("w1", (0, 1))
    traced, unused = dataset.indexed("w2", (0, 1)), dataset.indexed("w3", (0, 1))
    shared = dataset.indexed("w4", (0, 1), blob="w1")
    dataset.lines(WORKLOADS, kept, traced, unused, shared)
    dataset.lines(TRACES, dataset.trace(workload=traced["workload"]))
    report = merge(dataset.root)
    blobs = {path.name for path in dataset.root.glob("blob/**/*.safetensors")}
    assert blobs == {"w1.safetensors", "w2.safetensors"}
    assert report.blobs_removed == 1
    assert validate(dataset.root).problems == []


def test_folding_again_changes_nothing(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.indexed("w1"), "garbage", dataset.indexed("w2"))
    dataset.lines(shard(0, gone()), dataset.indexed("w3", (1, 1)), '{"torn', end="")
    merge(dataset.root)
    files = dataset.files()
    report = merge(dataset.root)
    assert dataset.files() == files
    assert (sum(report.added.values()), report.duplicates, report.rejected, report.problems) == (0, 0, 0, [])


def test_a_torn_line_is_moved_aside_with_a_note(dataset: Dataset) -> None:
    name = shard(0, gone())
    dataset.lines(name, dataset.workload("w1"), '{"definition": "ga', end="")
    report = merge(dataset.root)
    assert uuids(dataset) == ["w1"]
    assert (report.problems, len(report.notes)) == ([], 1)
    (entry,) = load_rejected(dataset.root)
    assert (entry.text, entry.line, entry.reason) == ('{"definition": "ga', 2, "torn last line")
    assert entry.file.endswith(name)


def test_a_damaged_line_is_moved_aside_and_is_a_problem(dataset: Dataset) -> None:
    bad = json.dumps(dataset.workload("bad", axes={"n": -1}))
    file = dataset.lines(WORKLOADS, dataset.workload("w1"), bad, dataset.workload("w2", m=3))
    report = merge(dataset.root)
    assert uuids(dataset) == ["w1", "w2"]
    assert [(one.file, one.line, one.field) for one in report.problems] == [(str(file), 2, "workload.axes.n")]
    assert [(entry.text, entry.line) for entry in load_rejected(dataset.root)] == [(bad, 2)]


def test_a_damaged_line_that_is_no_text_is_kept_exactly(dataset: Dataset) -> None:
    file = dataset.root / WORKLOADS
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xff\x00\xfe\n")
    merge(dataset.root)
    assert [entry.raw for entry in load_rejected(dataset.root)] == [b"\xff\x00\xfe"]


def test_a_shard_of_a_living_process_is_left_alone(dataset: Dataset) -> None:
    mine = shard(0, os.getpid(), this_host())
    dataset.lines(mine, dataset.workload("w1"))
    report = merge(dataset.root)
    assert [path.name for path in report.shards_left] == [Path(mine).name]
    assert not (dataset.root / WORKLOADS).exists()


def test_all_takes_the_lines_of_a_living_process_and_leaves_it_its_file(dataset: Dataset) -> None:
    mine = shard(0, os.getpid())
    file = dataset.lines(mine, dataset.workload("w1"))
    with file.open("ab") as writer:
        merge(dataset.root, every=True)
        assert (uuids(dataset), file.stat().st_size) == (["w1"], 0)
        writer.write(json.dumps(dataset.workload("w2", m=3)).encode() + b"\n")
    merge(dataset.root, every=True)
    assert uuids(dataset) == ["w1", "w2"]


def test_a_shard_is_not_taken_while_its_writer_is_at_it(dataset: Dataset) -> None:
    file = dataset.lines(shard(0, os.getpid()), dataset.workload("w1"))
    with file.open("ab") as writer, ThreadPoolExecutor() as threads:
        fcntl.flock(writer, fcntl.LOCK_EX)  # as the writer does for each batch
        merged = threads.submit(merge, dataset.root, every=True)
        with pytest.raises(FutureTimeout):
            merged.result(timeout=0.3)
        writer.write(json.dumps(dataset.workload("w2", m=3)).encode() + b"\n")
        writer.flush()
        fcntl.flock(writer, fcntl.LOCK_UN)
        assert merged.result(timeout=30).problems == []
    assert uuids(dataset) == ["w1", "w2"]


def test_a_process_number_that_was_given_away_again_is_no_living_writer(dataset: Dataset) -> None:
    file = dataset.lines(shard(0, os.getpid()), dataset.workload("w1"))
    os.utime(file, (1, 1))  # written long before this process began
    assert len(merge(dataset.root).shards_folded) == 1
    assert not file.exists()


def test_a_killed_process_that_its_parent_has_not_noticed_is_gone(dataset: Dataset) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        dataset.lines(shard(0, process.pid), dataset.workload("w1"))
        assert len(merge(dataset.root).shards_folded) == 1
    finally:
        process.wait()


def test_a_shard_of_another_host_is_left_while_it_grows(dataset: Dataset) -> None:
    file = dataset.lines(shard(0, gone(), "elsewhere"), dataset.workload("w1"))
    assert merge(dataset.root).shards_left == [file]
    os.utime(file, (1, 1))
    assert merge(dataset.root).shards_folded == [file]


def test_a_workload_whose_blob_is_missing_stays(dataset: Dataset) -> None:
    line = dataset.indexed("w1")
    (dataset.root / line["workload"]["inputs"]["index"]["path"]).unlink()
    dataset.lines(WORKLOADS, line)
    assert merge(dataset.root).problems == []
    assert uuids(dataset) == ["w1"]


def test_a_kill_before_the_shard_is_removed_leaves_each_record_once(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dataset.lines(shard(0, gone()), dataset.indexed("w1"), dataset.workload("w2"))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(dataset.root)
    assert file.exists()
    assert uuids(dataset) == ["w1", "w2"]
    merge(dataset.root)
    assert not file.exists()
    assert uuids(dataset) == ["w1", "w2"]
    assert validate(dataset.root).problems == []


def test_a_file_that_cannot_be_written_stops_only_itself(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "workloads/gather/other.rank0.1.jsonl"
    line = {**dataset.workload("w2"), "definition": "other"}
    for name, content in ((shard(0, gone()), dataset.workload("w1")), (other, line)):
        os.utime(dataset.lines(name, content), (1, 1))
    from fib_plugin.dataset import files

    real = files.write_file

    def refuse(path: Path, content: bytes) -> None:
        if path.name == "other.jsonl":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr("fib_plugin.dataset.fold.write_file", refuse)
    report = merge(dataset.root)
    assert uuids(dataset) == ["w1"]
    assert dataset.read(other) == [line]
    assert ["No space" in problem.problem for problem in report.problems] == [True]


def test_a_merged_dataset_loads_strictly(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, "garbage", dataset.indexed("w1"))
    dataset.lines(shard(3, gone()), dataset.indexed("w2", (3, 2, 1)), "{", end="")
    merge(dataset.root)
    assert len(TraceSet.from_path(dataset.root).workloads[NAME]) == 2
