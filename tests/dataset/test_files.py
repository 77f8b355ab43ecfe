"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from fib_plugin.dataset.files import copy_file, write_file


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.json"
    write_file(file, b"old")
    write_file(file, b"new")
    assert file.read_bytes() == b"new"
    assert [path.name for path in file.parent.iterdir()] == ["b.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "b.json"
    write_file(file, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("fib_plugin.dataset.files.os.replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_file(file, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b.json": b"old"}


def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_file(tmp_path / "a", b"x")
        copy_file(tmp_path / "a", tmp_path / "b")
    finally:
        os.umask(mask)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o644, 0o644]
    assert (tmp_path / "b").read_bytes() == b"x"
