"""Appending to and reading from JSONL files."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from fib_plugin.dataset import append_lines, read_lines
from fib_plugin.dataset.lines import LinesError, ends_torn, lock_for


def test_records_become_lines_in_order(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.jsonl"
    append_lines(file, [b"{}", b"[]"])
    append_lines(file, [b"1"])
    assert file.read_bytes() == b"{}\n[]\n1\n"


def test_appending_nothing_makes_no_file(tmp_path: Path) -> None:
    append_lines(tmp_path / "a.jsonl", [])
    assert not list(tmp_path.iterdir())


def test_a_record_after_a_torn_line_stays_readable(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a":1}\n{"b":')
    append_lines(file, [b'{"c":1}'])
    assert [line for _, line in read_lines(file)] == [b'{"a":1}', b'{"b":', b'{"c":1}']


def test_a_record_with_a_newline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LinesError, match="newline"):
        append_lines(tmp_path / "a.jsonl", [b"{\n}"])


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"1\n\n  \r\n2\r\n3")
    assert list(read_lines(file)) == [(1, b"1"), (4, b"2"), (5, b"3")]


def test_a_missing_newline_at_the_end_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for content, torn in ((b"", False), (b"1\n", False), (b"1\n2", True)):
        file.write_bytes(content)
        assert ends_torn(file) is torn


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    append_lines(file, [b"1"])
    write = os.write
    calls = []

    def full(fd: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:3])

    monkeypatch.setattr("fib_plugin.dataset.lines.os.write", full)
    with pytest.raises(OSError, match="No space"):
        append_lines(file, [b"22222222"])
    assert file.read_bytes() == b"1\n"


def test_a_lock_that_is_held_too_long_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with lock_for(file), pytest.raises(LinesError, match=r"a\.jsonl"):
        append_lines(file, [b"1"], timeout=0.05)


def _append_many(file: Path, worker: int) -> None:
    for number in range(50):
        append_lines(file, [json.dumps({"worker": worker, "number": number, "pad": "x" * 5000}).encode()])


def test_many_processes_append_whole_lines_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_append_many, args=(file, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = [json.loads(line) for _, line in read_lines(file)]
    assert {(record["worker"], record["number"]) for record in records} == {(w, n) for w in range(3) for n in range(50)}
    assert len(records) == 150
