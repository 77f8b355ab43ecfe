"""The writer and a disk that refuses: records are kept up to a bound, tried again, and counted when they are lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from capture_cases import MakeWriter, gather, lines, numbers, record, script, until, warnings_of

from fib_plugin.capture import archive as archive_module
from fib_plugin.schema import Definition

# ---- a disk that refuses -----------------------------------------------------------------------------------------


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
from capture_cases import MakeWriter, record, numbers, until, warnings_of
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
