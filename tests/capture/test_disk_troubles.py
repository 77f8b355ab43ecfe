"""Tracing onto a disk that is full, over its quota, read-only or gone: the engine does not notice, and it recovers.

A tmpfs of 1 MiB needs the right to mount one; the quota and the limit on a file's size stand in for it anywhere.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_cases import script
from safetensors.torch import load_file

from fib_plugin import ops
from fib_plugin.capture import quota as quota_module
from fib_plugin.dataset.reading import workloads
from fib_plugin.dataset.validation import validate
from fib_plugin.runtime import Runtime

Make = Callable[..., Runtime]

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
INDICES = 16_384  # of 4 bytes: 64 KiB a call
ROOM = 8  # records that may wait
CALLS = 40


class Disk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    if not made.mount("size=1m"):
        pytest.skip("mounting a tmpfs of 1 MiB needs more rights")
    yield made
    subprocess.run(["umount", "-l", str(made.path)], check=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "dataset"


def tracing(make_runtime: Make) -> Runtime:
    runtime = make_runtime(apply=False, tracing=True)
    runtime.writer._intake._limit = ROOM
    return runtime


def serve(runtime: Runtime, first: int, calls: int) -> float:
    """Calls of an engine, each of a new size; the longest one's seconds. Whatever it raises fails the test."""
    site = runtime.site("toy.decode", DECODE)
    pool = torch.zeros(4, 1, 2, 8, dtype=torch.bfloat16)
    longest = 0.0
    for number in range(first, first + calls):
        q = torch.zeros(number + 1, 4, 8, dtype=torch.bfloat16)
        indptr = torch.arange(number + 2, dtype=torch.int32)
        indices = torch.full((INDICES,), number, dtype=torch.int32)
        started = time.monotonic()
        assert site.attempt(number, (q, pool, pool, indptr, indices, 0.25)) is None
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.002)
    return longest


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def kept(root: Path) -> set[int]:
    """The calls on disk; fails on a line or a blob that is broken."""
    found = set()
    for line in workloads(root):
        assert line.record is not None, line.error
        source: Any = line.record.workload.inputs["kv_indices"]
        found.add(int(load_file(root / source.path)[source.tensor_key].unique().item()))
    return found


def said(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    messages = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    return [message for message in messages if f": {reason}: " in message]


def check_trouble(runtime: Runtime, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """While it lasts: one line in the log, the calls counted, what finds no room counted by reason."""
    until(lambda: runtime.writer.stats["errors"].get(reason))
    assert serve(runtime, 100, CALLS) < 0.5
    stats = runtime.writer.stats
    assert stats["dropped"].get(reason, 0) > 0
    assert set(stats["dropped"]) <= {reason, "queue_full"}
    assert stats["queued"] == ROOM
    assert runtime.snapshot()["status"]["capture"]["seen"] >= CALLS
    (line,) = said(caplog, reason)
    assert "Remedy" in line


def check_recovery(runtime: Runtime, root: Path) -> None:
    """Once it is over: what waited is written, and so is what comes then."""
    time.sleep(0.1)
    assert runtime.writer.flush(20), runtime.writer.stats
    written = runtime.writer.stats["written"]
    assert written >= ROOM
    serve(runtime, 200, 4)
    assert runtime.writer.flush(20)
    assert runtime.writer.stats["written"] == written + 4
    assert kept(root) >= {200, 201, 202, 203}
    assert validate(root).problems == []


def test_a_disk_of_one_mebibyte_fills_up_and_is_used_again_when_there_is_room(
    make_runtime: Make, disk: Disk, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = tracing(make_runtime)
    assert serve(runtime, 0, CALLS) < 0.5
    check_trouble(runtime, "disk_full", caplog)
    before = kept(dataset)
    assert before
    assert not [file for file in (dataset / "blob").rglob("*") if file.is_file() and file.stat().st_size < INDICES * 4]
    assert disk.mount("remount,size=16m")
    check_recovery(runtime, dataset)
    assert before < kept(dataset)


def test_a_file_system_that_turns_read_only_is_waited_for(
    make_runtime: Make, disk: Disk, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk.mount("remount,size=16m")
    runtime = tracing(make_runtime)
    serve(runtime, 0, 2)
    assert runtime.writer.flush(10)
    assert disk.mount("remount,ro,size=16m")
    serve(runtime, 2, 1)
    check_trouble(runtime, "read_only", caplog)
    assert disk.mount("remount,rw,size=16m")
    check_recovery(runtime, dataset)


def test_a_quota_of_one_mebibyte_is_kept_and_room_is_used(
    make_runtime: Make, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = tracing(make_runtime)
    quota = runtime.writer._scribe.archive.quota
    quota.limit = 1 << 20
    for first in range(0, CALLS, 4):  # no faster than the disk, which here may be a slow one
        serve(runtime, first, 4)
        if not runtime.writer.flush(0.5):
            break
    check_trouble(runtime, "quota", caplog)
    sizes = [sum(file.stat().st_size for file in (dataset / name).rglob("*")) for name in quota_module._FOLDERS]
    assert sum(sizes) < (1 << 20) + (256 << 10)
    quota.limit = 64 << 20
    check_recovery(runtime, dataset)


def test_a_folder_that_is_removed_and_blocked_by_a_file_is_made_again(
    make_runtime: Make, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = tracing(make_runtime)
    serve(runtime, 0, 2)
    assert runtime.writer.flush(10)
    dataset.rename(dataset.with_name("away"))
    dataset.write_text("a file stands where the dataset was")
    serve(runtime, 2, 1)
    check_trouble(runtime, "folder_removed", caplog)
    dataset.unlink()
    check_recovery(runtime, dataset)
    shutil.rmtree(dataset.with_name("away"))


FILE_SIZE = """
import logging, resource, sys
from pathlib import Path
import numpy
from capture_cases import numbers, record
from fib_plugin.capture.writer import Writer
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
root = Path(sys.argv[1])
writer = Writer(root)
for number in range(5):
    large = record(number, index=numpy.full(1 << 16, number, dtype=numpy.int32))
    large.axes["n"] = 1 << 16
    assert writer.submit(large)
assert writer.submit(record(7))
assert writer.flush(10), writer.stats
assert writer.stats["dropped"] == {"file_too_large": 5}, writer.stats
assert numbers(root) == [7]
assert not list((root / "blob/workloads/.tmp").iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert writer.submit(large)
assert writer.flush(10)
assert writer.stats["written"] == 2
print("ok")
"""


def test_a_limit_on_a_files_size_costs_the_large_records_only(tmp_path: Path) -> None:
    process = script(FILE_SIZE, tmp_path / "dataset", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert out.strip() == b"ok", err.decode()
    assert err.count(b"file_too_large") == 1
