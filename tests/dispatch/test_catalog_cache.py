"""The catalog's cache: right or not taken, made once per host, and never needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import proven
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proven import silu

from fib_plugin import ops
from fib_plugin.dataset import append_measurements, current_environment
from fib_plugin.dispatch import catalog as catalog_module
from fib_plugin.dispatch import catalog_cache, catalog_files
from fib_plugin.dispatch.catalog import Catalog
from fib_plugin.dispatch.catalog_cache import CacheFile
from fib_plugin.dispatch.catalog_image import Rules

NAME = silu().name


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def proved(dataset: Path) -> Path:
    proven.prove(dataset, silu(), sizes=(4, 8))
    return dataset


def opened(dataset: Path, cache: Path, **options: float) -> Catalog:
    return Catalog.open(dataset, cache, current_environment(), **options)


def answers(catalog: Catalog) -> tuple[object, ...]:
    """All that a catalog says."""
    definitions = [catalog.definition(name) for name in catalog.names()]
    return (
        definitions,
        [catalog.match(ops.structure(d)) for d in definitions if d is not None],
        [catalog.choose(name, (size, 0)) for name in catalog.names() for size in range(20)],
        (catalog.proven(), catalog.winners(), catalog.explain()),
    )


def table_file(cache: Path) -> Path:
    return next((cache / "tables").glob("*.table"))


# ---- warm -----------------------------------------------------------------------------------------------------------


def test_the_second_start_answers_from_the_cache_what_the_first_one_read(proved: Path, cache: Path) -> None:
    first, second = opened(proved, cache), opened(proved, cache)
    assert (first.read_anew, second.read_anew) == (True, False)
    assert answers(first) == answers(second)
    assert first.choose(NAME, (4, 0)).winner is not None


def test_a_warm_start_parses_nothing(proved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(proved, cache)

    def parsing(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(catalog_module, "parse", parsing)
    monkeypatch.setattr(catalog_module, "make_image", parsing)
    warm = opened(proved, cache)
    assert warm.choose(NAME, (4, 0)).winner is not None
    with pytest.raises(AssertionError, match="parsed"):
        warm.definition(NAME)


def test_what_could_not_be_read_is_told_at_every_start(proved: Path, cache: Path) -> None:
    (proved / "definitions" / "broken.json").write_text("{")
    first, second = opened(proved, cache), opened(proved, cache)
    assert not second.read_anew
    assert len(first.problems) == 1
    assert first.problems == second.problems


def test_rules_and_datasets_do_not_share_a_cache(proved: Path, cache: Path, tmp_path: Path) -> None:
    opened(proved, cache)
    other = shutil.copytree(proved, tmp_path / "other")
    assert opened(proved, cache, margin=5.0).choose(NAME, (4, 0)).winner is None
    assert opened(proved, cache, any_hardware=True).read_anew
    assert Catalog.open(proved, cache, None).read_anew
    assert opened(other, cache).read_anew
    elsewhere = current_environment().model_copy(update={"hardware": "another GPU"})
    assert Catalog.open(proved, cache, elsewhere).choose(NAME, (4, 0)).winner is None
    assert not opened(proved, cache).read_anew


# ---- what changed ---------------------------------------------------------------------------------------------------


def solution_file(dataset: Path) -> Path:
    return next((dataset / "solutions").rglob("fast.json"))


def measurement_file(dataset: Path) -> Path:
    return next((dataset / "fib/measurements").rglob("*.jsonl"))


def definition_file(dataset: Path) -> Path:
    return next((dataset / "definitions").rglob("*.json"))


def same_size_and_time(file: Path, old: str, new: str) -> None:
    """As a careful forger edits a file."""
    assert len(old) == len(new)
    stat = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def slower_now(dataset: Path) -> None:
    made = proven.solution(silu())
    append_measurements(
        dataset, "activation", [proven.measurement(made, {"batch_size": 4}, ratio_low=0.5, workload="w")]
    )


CHANGES: dict[str, tuple[Callable[[Path], object], Callable[[Catalog], bool]]] = {
    "a definition changed": (
        lambda root: same_size_and_time(definition_file(root), "harvested", "preserved"),
        lambda catalog: catalog.definition(NAME).tags == ["source:preserved"],  # type: ignore[union-attr]
    ),
    "a definition was added": (lambda root: proven.store(root, silu(d=8)), lambda catalog: len(catalog.names()) == 2),
    "a definition was removed": (lambda root: definition_file(root).unlink(), lambda catalog: catalog.names() == []),
    "a measurement was appended": (slower_now, lambda catalog: catalog.choose(NAME, (4, 0)).winner is None),
    "a measurement changed": (
        lambda root: same_size_and_time(measurement_file(root), '"ratio_low":1.9', '"ratio_low":0.9'),
        lambda catalog: catalog.proven() == [],
    ),
    "measurements were added": (
        lambda root: proven.prove(root, silu(d=8), proven.solution(silu(d=8), "wide")),
        lambda catalog: len(catalog.proven()) == 2,
    ),
    "measurements were removed": (
        lambda root: measurement_file(root).unlink(),
        lambda catalog: catalog.proven() == [],
    ),
    "a solution changed": (
        lambda root: same_size_and_time(solution_file(root), "100.0", "200.0"),
        lambda catalog: catalog.explain() == {NAME: "changed_since_measured"},
    ),
    "a solution was removed": (
        lambda root: solution_file(root).unlink(),
        lambda catalog: catalog.explain() == {NAME: "changed_since_measured"},
    ),
    "a solution was moved": (
        lambda root: solution_file(root).rename(root / "solutions" / "fast.json"),
        lambda catalog: catalog.winners()[0].file == "solutions/fast.json",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(proved: Path, cache: Path, change: str) -> None:
    make, seen = CHANGES[change]
    before = opened(proved, cache)
    assert not seen(before)
    make(proved)
    after = opened(proved, cache)
    assert after.read_anew
    assert seen(after)
    assert not opened(proved, cache).read_anew


def test_a_solution_that_comes_back_is_seen(proved: Path, cache: Path) -> None:
    file = solution_file(proved)
    away = file.rename(file.with_suffix(".away"))
    assert opened(proved, cache).proven() == []
    away.rename(file)
    assert opened(proved, cache).proven() == [NAME]


def test_files_that_do_not_come_to_rest_are_read_and_not_kept(
    proved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_files.Files, "age", lambda _: 0)
    for _ in range(2):
        catalog = opened(proved, cache)
        assert catalog.read_anew
        assert catalog.choose(NAME, (4, 0)).winner is not None
        assert catalog.problems == []


def test_a_change_right_after_a_start_is_seen_whatever_the_clock(dataset: Path, cache: Path) -> None:
    """Times of files tick coarsely: within a tick neither size nor time need to tell of a change."""
    for turn in range(20):
        line = "0.5" if turn % 2 else "1.9"
        shutil.rmtree(dataset, ignore_errors=True)
        proven.prove(dataset, silu(), ratio_low=1.9)
        opened(dataset, cache)
        same_size_and_time(measurement_file(dataset), '"ratio_low":1.9', f'"ratio_low":{line}')
        assert bool(opened(dataset, cache).proven()) == (line == "1.9")


# ---- damage ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_not_taken(proved: Path, cache: Path, data: st.DataObject) -> None:
    expected = answers(opened(proved, cache))
    file = table_file(cache)
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    file.write_bytes(
        data.draw(
            st.sampled_from(
                [
                    content[:at],
                    content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :],
                    content + bytes([flip]),
                    content[:at] + bytes(len(content) - at),
                ]
            )
        )
    )
    again = opened(proved, cache)
    assert again.read_anew
    assert again.problems == []
    assert answers(again) == expected
    assert not opened(proved, cache).read_anew


def test_a_file_in_an_older_format_is_not_taken(proved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(proved, cache)
    file, magic = table_file(cache), catalog_cache._MAGIC
    file.write_bytes(magic.replace(b"1", b"0") + file.read_bytes()[len(magic) :])
    assert opened(proved, cache).read_anew


def test_a_sound_file_of_other_content_is_not_taken(proved: Path, cache: Path) -> None:
    opened(proved, cache)
    file = table_file(cache)
    payload = b"\x93\x01\x02\x03"
    file.write_bytes(catalog_cache._MAGIC + catalog_cache._check(payload) + payload)
    assert opened(proved, cache).read_anew


def test_the_file_of_other_rules_is_not_taken_under_this_name(proved: Path, cache: Path) -> None:
    opened(proved, cache)
    ours = table_file(cache)
    assert opened(proved, cache, margin=5.0).proven() == []
    theirs = next(file for file in (cache / "tables").glob("*.table") if file != ours)
    ours.write_bytes(theirs.read_bytes())
    assert opened(proved, cache).proven() == [NAME]


# ---- without a cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", ["", "tables"])
def test_a_cache_that_cannot_be_written_costs_time_and_a_line(proved: Path, cache: Path, blocked: str) -> None:
    expected = answers(opened(proved, cache))
    shutil.rmtree(cache)
    (cache / blocked).parent.mkdir(parents=True, exist_ok=True)
    (cache / blocked).write_text("in the way")
    for _ in range(2):
        catalog = opened(proved, cache)
        assert catalog.read_anew
        assert answers(catalog) == expected
        assert [str(cache / "tables") in problem for problem in catalog.problems] == [True]


def test_a_disk_that_is_full_costs_time_and_a_line(proved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalog_cache, "write_file", full)
    catalog = opened(proved, cache)
    assert catalog.proven() == [NAME]
    assert ["No space left" in problem for problem in catalog.problems] == [True]


def test_a_process_that_hangs_while_it_reads_stops_no_other(proved: Path, cache: Path) -> None:
    rules = Rules(current_environment(), 0.03, False)
    holder = CacheFile(cache, proved, rules).lock(1.0)
    try:
        started = time.monotonic()
        catalog = opened(proved, cache, lock_timeout=0.2)
        assert time.monotonic() - started < 5
        assert catalog.proven() == [NAME]
        assert catalog.read_anew
        assert ["another process" in problem for problem in catalog.problems] == [True]
    finally:
        holder.release()


def test_a_process_that_died_while_it_read_leaves_no_lock_behind(proved: Path, cache: Path) -> None:
    code = (
        "import os, sys, pathlib; from fib_plugin.dispatch.catalog_cache import CacheFile;"
        "from fib_plugin.dispatch.catalog_image import Rules; from fib_plugin.dataset import current_environment;"
        "CacheFile(*map(pathlib.Path, sys.argv[1:]), Rules(current_environment(), 0.03, False)).lock(1.0); os._exit(9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(cache), str(proved)], check=False)
    assert died.returncode == 9
    assert opened(proved, cache, lock_timeout=1.0).problems == []


# ---- many at once ---------------------------------------------------------------------------------------------------


START = """
import pathlib, sys
from fib_plugin.dataset import current_environment
from fib_plugin.dispatch.catalog import Catalog
here = current_environment()
print("ready", flush=True)
sys.stdin.readline()
catalog = Catalog.open(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), here)
print(int(catalog.read_anew), len(catalog.problems), catalog.explain(), flush=True)
"""


def start_together(count: int, dataset: Path, cache: Path) -> list[str]:
    """What each of so many processes says, which open the dataset at one moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(dataset), str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return lines


def test_sixteen_processes_that_start_together_read_the_dataset_once(dataset: Path, cache: Path) -> None:
    for width in range(4, 44):
        definition = silu(d=width)
        proven.prove(dataset, definition, proven.solution(definition, f"fast_{width}"), sizes=(1, 2, 4, 8))
    expected = opened(dataset, cache).explain()
    shutil.rmtree(cache)
    lines = start_together(16, dataset, cache)
    assert sorted(line.partition(" ")[0] for line in lines) == ["0"] * 15 + ["1"]
    assert {line.partition(" ")[2] for line in lines} == {f"0 {expected}"}
    slower_now(dataset)
    again = start_together(16, dataset, cache)
    assert sorted(line.partition(" ")[0] for line in again) == ["0"] * 15 + ["1"]


def test_threads_that_open_it_together_all_get_the_same(proved: Path, cache: Path) -> None:
    found: list[Catalog] = []
    threads = [threading.Thread(target=lambda: found.append(opened(proved, cache))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(catalog.read_anew for catalog in found) == 1
    assert all(answers(catalog) == answers(found[0]) for catalog in found)
