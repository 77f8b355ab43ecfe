"""What failed in one process is out for all that share the cache, until it is cleared; nothing here stops an engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.dataset.lines import lock_for
from fib_plugin.dispatch import quarantine as module
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.schema import SchemaError

A, B = "a" * 64, "b" * 64


def record(hash: str = A, **changed: Any) -> Record:
    fields: dict[str, Any] = {
        "solution": "bad",
        "definition": "d",
        "reason": "solution_raised",
        "axes": {"M": 4},
        "detail": "boom",
        "traceback": "Traceback ...",
        "hardware": "here",
    }
    return Record(**{**fields, "hash": hash, **changed})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "quarantine"


def test_a_record_is_honoured_by_another_process_as_it_was_written(folder: Path) -> None:
    written = record()
    assert Quarantine(folder).add(written)
    assert Quarantine(folder).current("here") == {A: written}
    assert (written.pid, written.failures) == (os.getpid(), 1)


def test_a_folder_that_does_not_exist_holds_nothing(folder: Path) -> None:
    quarantine = Quarantine(folder)
    assert (quarantine.current("here"), quarantine.problems, quarantine.clear([A])) == ({}, [], [])
    assert not folder.exists()


def test_records_of_other_hardware_are_kept_and_not_honoured(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record(hardware="there"))
    assert quarantine.current("here") == {}
    quarantine.add(record(hardware="here"))
    assert set(quarantine.current("here")) == {A}
    assert sorted(one.hardware for one in quarantine.records()) == ["here", "there"]


def test_the_first_failure_is_kept_and_later_ones_are_counted(folder: Path) -> None:
    quarantine = Quarantine(folder)
    for detail in ("first", "second", "third"):
        quarantine.add(record(detail=detail))
    (kept,) = quarantine.current("here").values()
    assert (kept.detail, kept.failures) == ("first", 3)


ADDER = """
import sys
from pathlib import Path
from fib_plugin.dispatch.quarantine import Quarantine, Record
quarantine, endless = Quarantine(Path(sys.argv[1])), sys.argv[2] == "endless"
print("ready", flush=True)
number = 0
while endless or number < 20:
    fields = dict(solution="s", definition="d", hash=f"{number % 10:064x}", reason="solution_raised", hardware="here")
    assert quarantine.add(Record(**fields, traceback="x" * 5000))
    number += 1
"""


def adder(folder: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ADDER, str(folder), how], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_add_at_once_lose_no_failure(folder: Path) -> None:
    for process in [adder(folder, "twenty") for _ in range(2)]:
        assert process.wait(60) == 0
    assert {one.failures for one in Quarantine(folder).current("here").values()} == {4}
    assert len(Quarantine(folder).current("here")) == 10


def test_a_process_that_is_killed_while_adding_leaves_records_that_can_be_read(folder: Path) -> None:
    for delay in (0.02, 0.05, 0.08):
        process = adder(folder, "endless")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        quarantine = Quarantine(folder)
        assert quarantine.records()
        assert quarantine.problems == []
    assert Quarantine(folder).add(record())


def test_what_others_add_and_clear_is_seen_at_the_next_look(folder: Path) -> None:
    ours, theirs = Quarantine(folder), Quarantine(folder)
    assert ours.current("here") == {}
    for hash in (A, B):
        theirs.add(record(hash))
        assert hash in ours.current("here")
    theirs.clear([A])
    assert set(ours.current("here")) == {B}


def test_a_cache_that_was_removed_holds_nothing_any_more(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())
    assert set(quarantine.current("here")) == {A}
    shutil.rmtree(folder.parent)
    assert quarantine.current("here") == {}


def test_a_look_at_a_folder_that_has_not_changed_reads_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK_S", 0.0)
    quarantine = Quarantine(folder)
    quarantine.add(record())
    first = quarantine.current("here")
    monkeypatch.setattr(module, "_files", lambda folder: pytest.fail("the folder was read"))
    assert quarantine.current("here") is first


def test_a_change_within_one_tick_of_the_files_clock_is_seen(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())
    stat = folder.stat()
    assert set(quarantine.current("here")) == {A}
    Quarantine(folder).add(record(B))
    os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert set(quarantine.current("here")) == {A, B}


def test_after_a_tick_the_reading_settles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    quarantine = Quarantine(folder)
    Quarantine(folder).add(record())
    reads = []
    real = module._files
    monkeypatch.setattr(module, "_files", lambda folder: reads.append(1) or real(folder))
    for _ in range(6):
        quarantine.current("here")
        clock[0] += 1.0
    assert len(reads) == 3


def test_a_damaged_file_is_told_and_the_others_are_honoured(folder: Path, log: Any) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record(A))
    quarantine.add(record(B))
    (damaged,) = folder.glob(f"{A}*")
    damaged.write_bytes(b'{"solution": "\xff')
    assert set(quarantine.current("here")) == {B}
    (problem,) = quarantine.problems
    assert str(damaged) in str(problem)
    quarantine.current("here")
    assert len(log.warnings) == 1


def test_a_damaged_record_is_written_again_when_the_solution_fails_again(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())
    (damaged,) = folder.glob(f"{A}*")
    damaged.write_text("{")
    assert quarantine.add(record(detail="again"))
    assert quarantine.current("here")[A].detail == "again"


def test_a_folder_that_cannot_be_written_is_said_once_and_raises_nothing(tmp_path: Path, log: Any) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    quarantine = Quarantine(tmp_path / "cache" / "quarantine")
    assert [quarantine.add(record()), quarantine.add(record(B))] == [False, False]
    (line,) = log.warnings
    assert "FIB_CACHE_PATH" in line


def test_a_file_in_place_of_the_folder_is_told_and_holds_nothing(tmp_path: Path, log: Any) -> None:
    (tmp_path / "quarantine").write_text("")
    quarantine = Quarantine(tmp_path / "quarantine")
    assert [quarantine.current("here"), quarantine.current("here")] == [{}, {}]
    assert "FIB_CACHE_PATH" in str(quarantine.problems[0])
    assert len(log.warnings) == 1


def test_a_lock_that_somebody_keeps_does_not_keep_the_engine(
    folder: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    with lock_for(folder / "all"):
        assert not Quarantine(folder).add(record())
    assert "Timeout" in log.warnings[0]


def test_a_record_without_a_hash_is_refused(folder: Path) -> None:
    assert not Quarantine(folder).add(record(""))


def test_texts_that_utf8_cannot_hold_and_long_ones_are_written_all_the_same(folder: Path) -> None:
    class Size:
        def __int__(self) -> int:
            return 7

    odd = record(detail="no such file: \udcff", traceback="x" * 1_000_000 + "the end", axes={"M": Size()})
    assert Quarantine(folder).add(odd)
    (kept,) = Quarantine(folder).current("here").values()
    assert kept.detail == "no such file: \\udcff"
    assert kept.traceback.endswith("the end")
    assert len(kept.traceback) < 100_000
    assert kept.axes == {"M": 7}


def test_a_hash_never_leads_out_of_the_folder(folder: Path) -> None:
    quarantine = Quarantine(folder)
    assert quarantine.add(record("../../evil"))
    assert [path.parent for path in folder.parent.rglob("*.json")] == [folder]
    assert [one.hash for one in quarantine.clear(["../../evil"])] == ["../../evil"]


def test_clearing_tells_what_it_cleared_on_every_device_and_leaves_the_rest(folder: Path) -> None:
    quarantine = Quarantine(folder)
    for one in (record(A), record(A, hardware="there"), record(B)):
        quarantine.add(one)
    cleared = quarantine.clear([A, "c" * 64])
    assert sorted((one.hash, one.hardware, one.detail) for one in cleared) == [
        (A, "here", "boom"),
        (A, "there", "boom"),
    ]
    assert set(quarantine.current("here")) == {B}


def test_clearing_removes_a_damaged_record_too(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())
    next(folder.glob(f"{A}*")).write_text("{")
    (cleared,) = quarantine.clear([A])
    assert (cleared.hash, cleared.detail) == (A, "an unreadable record")
    assert quarantine.problems == []


def test_what_cannot_be_cleared_is_an_error_with_a_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SchemaError, match="owner and mode"):
        quarantine.clear([A])


def test_fields_of_a_newer_plugin_are_ignored(folder: Path) -> None:
    quarantine = Quarantine(folder)
    quarantine.add(record())
    (file,) = folder.glob("*.json")
    file.write_text(file.read_text().replace("{", '{"new": 1,', 1))
    assert set(Quarantine(folder).current("here")) == {A}
