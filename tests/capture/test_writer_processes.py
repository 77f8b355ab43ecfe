"""Processes that fork, or run beside each other on one host or on several, leave datasets that are whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from capture_cases import gather, numbers, record, script

from fib_plugin.capture.writer import Writer
from fib_plugin.dataset.counts import load_counts
from fib_plugin.dataset.merging import merge


def test_what_killed_processes_left_half_written_is_swept(root: Path) -> None:
    gone = script("pass")
    gone.wait()
    writer = Writer(root)
    writer.submit(record(1))
    assert writer.flush()
    folder = root / "blob/workloads/.tmp"
    host = next((root / "workloads/gather").iterdir()).name.split(".")[2].rsplit("-", 1)[0]
    (folder / f"{host}.{gone.pid}.0000").write_bytes(b"half")
    (folder / f"{host}.{os.getppid()}.0000").write_bytes(b"half, and its process lives")
    (folder / f"another.{gone.pid}.0000").write_bytes(b"half, of another host")
    writer.close()
    later = Writer(root)
    later.submit(record(2))
    assert later.flush()
    later.close()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{host}.{os.getppid()}.0000", f"another.{gone.pid}.0000"]
    )


def test_two_processes_write_one_definition_each_into_a_shard_of_its_own(root: Path) -> None:
    source = """
import sys
from pathlib import Path
from capture_cases import record
from fib_plugin.capture.writer import Writer
first = int(sys.argv[2])
writer = Writer(Path(sys.argv[1]), rank=first // 100)
for number in range(first, first + 50):
    assert writer.submit(record(number))
assert writer.flush(30), writer.stats
assert writer.stats["errors"] == {}, writer.stats
"""
    processes = [script(source, root, first) for first in (0, 100)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(numbers(root)) == [*range(50), *range(100, 150)]
    assert len(list((root / "workloads/gather").iterdir())) == 2
    assert [path.name for path in (root / "definitions/gather").iterdir()] == ["gather_r8.json"]


FORK_UNDER_LOAD = """
import os, sys, threading, time
from pathlib import Path
from capture_cases import record
from fib_plugin.capture.writer import Writer
counts = {"calls": {"gather_r8": {"{}": 1}}}
writer = Writer(Path(sys.argv[1]), snapshot=lambda: counts)
writer.start()
stop = threading.Event()
def load():
    number = 0
    while not stop.is_set():
        writer.submit(record(number)); number += 1; time.sleep(0.001)
thread = threading.Thread(target=load); thread.start()
for child_number in range(5):
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        ok = writer.stats["queued"] == 0 and writer.stats["written"] == 0
        for number in range(10):
            ok &= writer.submit(record(10_000 * (child_number + 1) + number))
        ok &= writer.flush(20)
        os._exit(0 if ok and writer.stats["written"] == 10 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set(); thread.join()
assert writer.flush(20), writer.stats
assert writer.stats["errors"] == {}, writer.stats
print(writer.stats["written"])
"""


def test_a_forked_child_gets_a_thread_an_empty_queue_and_files_of_its_own(root: Path) -> None:
    process = script(FORK_UNDER_LOAD, root, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    found = numbers(root)
    assert len([number for number in found if number < 10_000]) == int(out)
    for child in range(1, 6):
        assert {number for number in found if number // 10_000 == child} == set(
            range(child * 10_000, child * 10_000 + 10)
        )
    assert len(found) == len(set(found))
    assert len(list((root / "workloads/gather").iterdir())) == 6
    assert len(list((root / "fib/counts").iterdir())) == 6


def test_a_definition_name_is_shared_by_fork_and_parent_without_conflict(root: Path) -> None:
    writer = Writer(root)
    writer.submit(record(1, gather()))
    assert writer.flush()
    child = os.fork()
    if child == 0:
        writer.submit(record(2, gather()))
        os._exit(0 if writer.flush(20) and writer.stats["errors"] == {} else 1)
    assert os.waitpid(child, 0)[1] == 0
    writer.close()
    assert sorted(numbers(root)) == [1, 2]


TWO_HOSTS = """
import os, sys
from pathlib import Path
from capture_cases import record
from fib_plugin.capture import writer as module
root = Path(sys.argv[1])
writers = []
for host, first in (("alpha", 0), ("beta", 100)):
    module.this_host = lambda: host
    counts = {"calls": {"gather_r8": {"{}": first + 1}}}
    writers.append((module.Writer(root, rank=0, snapshot=lambda counts=counts: counts), first))
for number in range(50):
    for writer, first in writers:
        assert writer.submit(record(first + number))
for writer, _ in writers:
    assert writer.flush(30), writer.stats
    assert writer.stats["errors"] == {}, writer.stats
print(os.getpid())
"""


def test_processes_of_one_number_on_two_hosts_share_a_folder(root: Path) -> None:
    process = script(TWO_HOSTS, root, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    pid = int(out)
    names = {path.name for path in (root / "workloads/gather").iterdir()}
    assert names == {f"gather_r8.rank0.{host}-{pid}.jsonl" for host in ("alpha", "beta")}
    assert {path.name.split(".")[0] for path in (root / "fib/counts").iterdir()} == {"alpha", "beta"}
    assert load_counts(root) == {"gather_r8": {"{}": 102}}
    merge(root, every=True)
    # The shards of another host are emptied, not removed: it may have them open.
    left = [path.name for path in (root / "workloads/gather").glob("*.jsonl") if path.stat().st_size]
    assert left == ["gather_r8.jsonl"]
    assert sorted(numbers(root)) == [*range(50), *range(100, 150)]
