"""A shard holds whole lines, whatever happened to earlier writers."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from fib_plugin.capture.shard import Shard


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "deep" / "s.jsonl")
    assert shard.append([b"one", b"two"]) == 8
    shard.append([b"three"])
    assert shard.path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("before", [b"", b"whole\n", b"whole\n" + b"x" * 70_000 + b"\n"])
def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(before + b'{"torn": ' + b"y" * 70_000)
    Shard(path).append([b"next"])
    assert path.read_bytes() == before + b"next\n"


def test_a_disk_that_fills_up_within_a_batch_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = Shard(tmp_path / "s.jsonl")
    shard.append([b"before"])
    real_write, room = os.write, [10]

    def write(fd: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real_write(fd, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        shard.append([b"fits", b"does not fit"])
    monkeypatch.undo()
    assert shard.path.read_bytes() == b"before\n"


def test_a_removed_file_is_noticed_and_made_again(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "folder" / "s.jsonl")
    shard.append([b"one"])
    assert not shard.vanished
    shard.path.unlink()
    shard.path.parent.rmdir()
    shard.append([b"two"])
    assert shard.vanished
    assert shard.path.read_bytes() == b"two\n"


def test_a_shard_that_another_process_holds_is_not_waited_for(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "s.jsonl")
    shard.append([b"one"])
    with shard.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            shard.append([b"two"])
    shard.append([b"two"])
    assert shard.path.read_bytes() == b"one\ntwo\n"


def test_a_child_forked_while_the_file_was_open_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = Shard(tmp_path / "s.jsonl")
    real_write, children = os.write, []

    def write(fd: int, data: memoryview) -> int:
        if not children:
            child = os.fork()
            if child == 0:
                signal_end.read(1)
                os._exit(0)
            children.append(child)
        return real_write(fd, data)

    reader, writer = os.pipe()
    signal_end = os.fdopen(reader, "rb", buffering=0)
    monkeypatch.setattr(os, "write", write)
    try:
        shard.append([b"one"])
        shard.append([b"two"])
    finally:
        real_write(writer, b"x")
        os.waitpid(children[0], 0)
    assert shard.path.read_bytes() == b"one\ntwo\n"
