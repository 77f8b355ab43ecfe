"""What a catalog looks at: the data files that a TraceSet would read, in its order, and no others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fib_plugin.dataset import reading
from fib_plugin.dispatch import catalog_files
from fib_plugin.dispatch.catalog_files import Files, in_order, read


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def test_the_files_are_those_of_a_trace_set_in_its_order(tmp_path: Path) -> None:
    names = (
        "b/x.json",
        "b-c/x.json",
        "b.d/y.json",
        "a.json",
        "b/.hidden.json",
        ".hidden/x.json",
        "b/x.json.lock",
        "b/t.txt",
    )
    write(tmp_path, *(f"{folder}/{name}" for folder in ("definitions", "solutions") for name in names))
    write(tmp_path, "elsewhere/x.json", "definitions/folder.json/inner.json")
    (tmp_path / "definitions" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "definitions" / "linked.json").symlink_to(tmp_path / "elsewhere" / "x.json")
    files = Files.look(tmp_path, True)
    for folder, found in (("definitions", files.definitions), ("solutions", files.solutions)):
        expected = reading.files_below(tmp_path / folder, ".json")
        assert [seen[0] for seen in in_order(found)] == list(map(str, expected))
    assert len(files.definitions) == 6


def test_measurements_are_lines_and_solutions_documents(tmp_path: Path) -> None:
    write(
        tmp_path, "fib/measurements/a/x.jsonl", "fib/measurements/a/x.json", "solutions/x.jsonl", "fib/counts/y.jsonl"
    )
    files = Files.look(tmp_path, True)
    assert [Path(seen[0]).name for seen in files.measurements] == ["x.jsonl"]
    assert files.solutions == []


def test_without_choices_only_definitions_are_looked_at(tmp_path: Path) -> None:
    write(tmp_path, "definitions/x.json", "solutions/x.json", "fib/measurements/x.jsonl")
    files = Files.look(tmp_path, False)
    assert [len(files.definitions), len(files.solutions), len(files.measurements)] == [1, 0, 0]


def test_the_digest_does_not_depend_on_the_order_in_which_folders_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(f"definitions/{at}/x{at}.json" for at in range(9)))
    expected = Files.look(tmp_path, True).digest()
    real = os.scandir

    class Reversed:
        def __init__(self, folder: str) -> None:
            with real(folder) as entries:
                self._entries = list(entries)[::-1]

        def __enter__(self) -> Reversed:
            return self

        def __exit__(self, *_: object) -> None: ...

        def __iter__(self) -> object:
            return iter(self._entries)

    monkeypatch.setattr(catalog_files.os, "scandir", Reversed)
    assert Files.look(tmp_path, True).digest() == expected


@pytest.mark.parametrize("said", [-1, 0, 3, 5, 8, 100])
def test_a_file_is_read_whole_whatever_its_size_was_said_to_be(tmp_path: Path, said: int) -> None:
    write(tmp_path, "12345")
    assert read((str(tmp_path / "12345"), said, 0, 0)) == b"12345"


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert read((str(tmp_path / "x"), 0, 0, 0)) == b""


def test_files_that_just_changed_are_waited_for_and_looked_at_again(tmp_path: Path) -> None:
    write(tmp_path, "definitions/x.json")
    early = Files.look(tmp_path, True)
    write(tmp_path, "definitions/y.json")
    settled = early.settled(tmp_path, True)
    assert settled is not None
    assert len(settled.definitions) == 2
    assert settled.age() >= catalog_files._TICK_NS


def test_files_that_are_old_are_taken_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "definitions/x.json")
    time.sleep(0.05)
    files = Files.look(tmp_path, True)
    assert files.settled(tmp_path, True) is files


def test_a_clock_that_is_far_ahead_holds_nothing_up(tmp_path: Path) -> None:
    files = Files(definitions=[("x", 1, 0, time.time_ns() + 10**12)])
    assert files.settled(tmp_path, True) is files


def test_files_that_never_rest_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "age", lambda _: 1)
    assert Files().settled(tmp_path, True) is None
