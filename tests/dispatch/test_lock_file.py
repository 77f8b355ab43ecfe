"""fib.lock is read back as it was written, spelled the same each time, and survives who writes it and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fib_plugin.dispatch.lock_file import LockFile, Trusted, editing
from fib_plugin.schema import SchemaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = '[[solution]]\nname = "{}"\nhash = "{}"\n'


def trusted(name: str, hash: str = "a" * 64, **fields: Any) -> Trusted:
    return Trusted(name=name, hash=hash, **fields)


def write(path: Path, *entries: Trusted) -> None:
    with editing(path) as lock:
        lock.solutions = list(entries)


def test_a_file_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert LockFile.read(tmp_path / "fib.lock").solutions == []


def test_tables_are_sorted_by_name_then_hash_whatever_order_they_came_in(tmp_path: Path) -> None:
    entries = [trusted("b"), trusted("a", "f" * 64), trusted("a", "0" * 64)]
    write(tmp_path / "one", *entries)
    write(tmp_path / "two", *reversed(entries))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = LockFile.read(tmp_path / "one").solutions
    assert [(entry.name, entry.hash[0]) for entry in read] == [("a", "0"), ("a", "f"), ("b", "a")]


def test_one_more_solution_is_one_more_table_in_the_diff(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    write(path, trusted("a"), trusted("c"))
    before = path.read_text().splitlines()
    with editing(path) as lock:
        lock.solutions.append(trusted("b"))
    after = path.read_text().splitlines()
    start = next(i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
    added = len(after) - len(before)
    assert before == after[:start] + after[start + added :]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    name=TEXT.filter(bool),
    sources=st.dictionaries(TEXT, TEXT, max_size=3),
    extra=st.dictionaries(TEXT.map(lambda key: f"x{key}"), VALUES, max_size=3),
)
def test_any_name_path_and_unknown_key_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, name: str, sources: dict[str, str], extra: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("lock") / "fib.lock"
    entry = trusted(name, sources=sources, extra=extra)
    write(path, entry)
    assert LockFile.read(path).solutions == [entry]


def test_unknown_keys_and_the_comment_at_the_top_stay(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    path.write_text(
        "# read by Ann\n# and Bob\n\nversion = 7\n\n" + TABLE.format("b", "b" * 64) + 'note = "slow on odd M"\n'
        "when = 2026-01-02T03:04:05Z\n\n[other]\nkey = [1, 2.5]\n"
    )
    with editing(path) as lock:
        lock.solutions.append(trusted("a"))
    text = path.read_text()
    assert text.startswith("# read by Ann\n# and Bob\n")
    content = tomllib.loads(text)
    assert (content["version"], content["other"]) == (7, {"key": [1, 2.5]})
    assert content["solution"][1]["note"] == "slow on odd M"
    assert content["solution"][1]["when"].isoformat() == "2026-01-02T03:04:05+00:00"


def test_a_file_that_nothing_was_done_to_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    by_hand = '[[solution]]\nhash="a"\nname="x" # spelled by hand\n'
    path.write_text(by_hand)
    with editing(path):
        pass
    assert path.read_text() == by_hand


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "kept" / "fib.lock", tmp_path / "fib.lock"
    real.parent.mkdir()
    real.write_text("")
    link.symlink_to(real)
    write(link, trusted("a"))
    assert link.is_symlink()
    assert [entry.name for entry in LockFile.read(real).solutions] == ["a"]


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b'[[solution]]\nname = "a\n', 2, "line 2"),
        (b"<<<<<<< ours\n" + TABLE.format("a", "b").encode(), 1, "line 1"),
        (TABLE.format("a", "b").encode() + b"note =\n\n", 4, "fib.lock"),
        (b"# x\n[[solution\n", 2, "fib.lock"),
        (b'# x\nname = "\xff"', 2, "UTF-8"),
        (b'[solution]\nname = "a"', None, "[[solution]]"),
        (TABLE.format("a", "b").encode() + b'[[solution]]\nname = "c"\n', None, "[[solution]] 2"),
        (b'[[solution]]\nname = "a"\nhash = 3\n', None, "hash"),
        (TABLE.format("a", "").encode(), None, "empty"),
        (b"solution = [1]", None, "table"),
        (b"x = " + b"[" * 20000, None, ""),
    ],
)
def test_a_broken_file_is_named_with_line_and_remedy(
    tmp_path: Path, content: bytes, line: int | None, word: str
) -> None:
    path = tmp_path / "fib.lock"
    path.write_bytes(content)
    with pytest.raises(SchemaError) as caught:
        LockFile.read(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)
    assert word in str(caught.value)
    assert "fib trust add" in caught.value.remedy


def test_a_broken_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    path.write_text("[[solution")
    with pytest.raises(SchemaError):
        write(path, trusted("a"))
    assert path.read_text() == "[[solution"


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SchemaError, match="FIB_LOCK_PATH"):
        write(tmp_path / "file" / "fib.lock", trusted("a"))


def test_a_lock_that_somebody_keeps_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    with editing(path), pytest.raises(SchemaError, match="holds its lock"), editing(path, timeout=0.05):
        pass


WRITER = """
import sys
from pathlib import Path
from fib_plugin.dispatch.lock_file import Trusted, editing
path, prefix, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(count):
    with editing(path) as lock:
        lock.solutions = [*lock.solutions[-200:], Trusted(name=f"{prefix}{number}", hash="a" * 64)]
"""


def writer(path: Path, prefix: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), prefix, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    for process in [writer(path, prefix, 25) for prefix in ("a", "b")]:
        assert process.wait(60) == 0
    names = {entry.name for entry in LockFile.read(path).solutions}
    assert names == {f"{prefix}{number}" for prefix in ("a", "b") for number in range(25)}


def test_a_writer_that_is_killed_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "fib.lock"
    for delay in (0.02, 0.05, 0.08, 0.11, 0.14):
        process = writer(path, "x", 1_000_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert LockFile.read(path).solutions
    write(path, trusted("after"))
    assert [entry.name for entry in LockFile.read(path).solutions] == ["after"]
