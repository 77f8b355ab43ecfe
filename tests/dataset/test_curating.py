"""Curating a dataset into another folder and in place."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import curated_files, load_counts, merge, stats, validate
from fib_plugin.dataset.curating import curate
from fib_plugin.schema import SchemaError

Make = Callable[[str], Dataset]
OUT = "fib/curated_out"


def filled(made: Dataset, workloads: int = 8, order: int | None = None, first: int = 0) -> Dataset:
    """Workloads of m = 1, 2, ... with blobs, calls of each, the engine's solution and somebody's."""
    made.definition()
    made.solution()
    made.document(
        f"solutions/engine/gather/{NAME}/op.json",
        {**made.solution("op"), "author": "engine"},
    )
    (made.root / f"solutions/someone/gather/{NAME}/op.json").unlink()
    lines = [made.indexed(f"w{first + m}", tuple(range(m))) for m in range(1, workloads + 1)]
    if order is not None:
        random.Random(order).shuffle(lines)
    made.lines(WORKLOADS, *lines)
    calls = {f'{{"m":{m},"n":8}}': 10 * m for m in range(1, workloads + 1)}
    counts(made, {NAME: calls})
    return made


def counts(made: Dataset, calls: dict[str, dict[str, int]]) -> None:
    made.document("fib/counts/h.1.1.json", {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": calls})


def sizes(made: Dataset, path: str = WORKLOADS) -> list[int]:
    return [line["workload"]["axes"]["m"] for line in made.read(path)]


def test_the_curated_folder_is_a_dataset_of_the_kept_workloads(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    source.document("fib/evaluation/gather/ignored.txt", {})
    (source.root / f"fib/evaluation/gather/{NAME}.yaml").write_text("atol: 0.5\n")
    before = source.files()
    report = curate(source.root, into.root, keep=4)
    assert source.files() == before
    assert report.problems == []
    assert sizes(into) == [1, 3, 7, 8]
    assert set(into.files()) == {
        f"definitions/gather/{NAME}.json",
        f"solutions/engine/gather/{NAME}/op.json",
        WORKLOADS,
        f"fib/evaluation/gather/{NAME}.yaml",
        "fib/counts/h.1.1.json",
        *(f"blob/workloads/gather/{NAME}/w{m}.safetensors" for m in (1, 3, 7, 8)),
    }
    assert load_counts(into.root) == load_counts(source.root)
    assert validate(into.root).problems == []


def test_lines_are_kept_byte_for_byte_with_their_unknown_fields(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    line = {**source.indexed("w9", tuple(range(9))), "zzz": {"deep": [None, 1.50]}}
    source.lines(WORKLOADS, *source.read(WORKLOADS), line)
    curate(source.root, into.root, keep=3)
    assert line in into.read(WORKLOADS)
    kept = (into.root / WORKLOADS).read_bytes().splitlines()
    assert set(kept) < set((source.root / WORKLOADS).read_bytes().splitlines())


def test_curating_into_the_same_folder_twice_changes_nothing(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    curate(source.root, into.root, keep=4)
    files = into.files()
    assert curate(source.root, into.root, keep=4).problems == []
    assert into.files() == files
    assert curate(into.root, make("again").root, keep=4).problems == []
    assert make("again").files() == files


def test_the_result_does_not_depend_on_the_order_of_lines_and_files(make: Make) -> None:
    made = []
    for order in (None, 1, 2):
        source, into = filled(make(f"a{order}"), order=order), make(f"into{order}")
        twin = source.indexed("a-twin-of-w1", (0,))
        lines = source.read(WORKLOADS)
        source.lines(WORKLOADS, *([twin, *lines] if order == 1 else [*lines, twin]))
        if order == 2:  # the same records, half of them in a shard
            lines = source.read(WORKLOADS)
            source.lines(WORKLOADS, *lines[:4])
            source.lines(f"workloads/gather/{NAME}.ranktp0.99999999.jsonl", *lines[4:])
        curate(source.root, into.root, keep=4)
        made.append(into.files())
    assert made[0] == made[1] == made[2]


def test_uuids_do_not_decide(make: Make) -> None:
    kept = []
    for first in (0, 50):
        source, into = filled(make(f"a{first}"), 12, first=first), make(f"into{first}")
        counts(source, {})
        curate(source.root, into.root, keep=5)
        kept.append(sizes(into))
    assert kept[0] == kept[1]


def test_equal_contents_count_once(make: Make) -> None:
    source, into = filled(make("a"), 3), make("into")
    source.lines(WORKLOADS, *source.read(WORKLOADS), source.indexed("twin", (0, 1)))
    row = curate(source.root, into.root, keep=3).rows[0]
    assert (len(row.before), len(row.after), sizes(into)) == (3, 3, [1, 2, 3])


def test_a_folder_with_other_workloads_is_not_overwritten(make: Make) -> None:
    source, into = filled(make("a")), filled(make("into"), 2)
    files = into.files()
    with pytest.raises(SchemaError, match="other content") as error:
        curate(source.root, into.root, keep=4)
    assert error.value.file == str(into.root / WORKLOADS)
    assert "empty folder" in error.value.remedy
    assert into.files() == files


def test_counts_that_grew_since_are_brought_up_to_date(make: Make) -> None:
    source, into = filled(make("a"), 3), make("into")
    curate(source.root, into.root)
    counts(source, {NAME: {'{"m":1,"n":8}': 500}})
    curate(source.root, into.root)
    assert load_counts(into.root) == {NAME: {'{"m":1,"n":8}': 500}}


def test_only_the_named_definitions_are_looked_at(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    source.definition("other")
    calls = {**load_counts(source.root), "other": {"{}": 5}}
    counts(source, calls)
    assert [row.definition for row in curate(source.root, into.root, only="gather*").rows] == [NAME]
    assert not (into.root / "definitions/gather/other.json").exists()
    assert set(load_counts(into.root)) == {NAME}
    rest = curate(source.root, into.root, only="oth*")
    assert [(row.definition, row.standing.calls, row.standing.exact) for row in rest.rows] == [("other", 5, 0.0)]
    assert set(load_counts(into.root)) == {NAME, "other"}


def test_a_dry_run_writes_nothing_and_says_the_same(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    files = source.files()
    for target in (None, into.root):
        told = curate(source.root, target, keep=4, dry_run=True)
        assert [one.axes["m"] for one in told.rows[0].kept] == [1, 3, 7, 8]
    assert (source.files(), into.files()) == (files, {})


def test_shares_of_calls_and_time_are_those_of_the_kept(make: Make) -> None:
    source = filled(make("a"))  # m called 10 m times, 360 calls
    row = curate(source.root, keep=4, dry_run=True).rows[0]
    assert row.standing.calls == 360
    assert row.standing.exact == pytest.approx((10 + 30 + 70 + 80) / 360)
    assert row.standing.by_class == 1.0  # of m = 2, 4, 5, 6 there is a neighbour in their class
    assert [one.stands_for for one in row.kept] == [10, 50, 40 + 50 + 60 + 70, 80]
    assert row.time_source == "estimated"
    total = curate(source.root, keep=4, dry_run=True).total()
    assert (total["calls"], total["calls_share_exact"]) == (360, row.standing.exact)


def test_a_workload_without_its_blob_is_a_problem_and_not_kept(make: Make) -> None:
    source, into = filled(make("a"), 3), make("into")
    (source.root / f"blob/workloads/gather/{NAME}/w2.safetensors").unlink()
    report = curate(source.root, into.root)
    assert [(problem.file, problem.line) for problem in report.problems] == [
        (str(source.root / f"blob/workloads/gather/{NAME}/w2.safetensors"), 2)
    ]
    assert sizes(into) == [1, 3]


def test_a_torn_last_line_is_a_note_and_a_damaged_one_a_problem(make: Make) -> None:
    source, into = filled(make("a"), 2), make("into")
    source.lines(WORKLOADS, *source.read(WORKLOADS), "garbage", '{"torn', end="")
    report = curate(source.root, into.root)
    assert (len(report.notes), [problem.line for problem in report.problems]) == (1, [3])
    assert sizes(into) == [1, 2]


def test_the_dataset_itself_is_no_other_folder(make: Make) -> None:
    with pytest.raises(SchemaError, match="the dataset itself"):
        curate(filled(make("a")).root, make("a").root / "fib/..")


# ---- in place --------------------------------------------------------------------------------------------------------


def test_in_place_what_is_left_out_moves_aside_with_its_blobs(dataset: Dataset) -> None:
    filled(dataset)
    lines = dataset.read(WORKLOADS)
    report = curate(dataset.root, keep=4)
    assert (report.moved, report.left_out, report.problems) == (4, dataset.root / OUT, [])
    assert dataset.read(WORKLOADS) == [lines[m - 1] for m in (1, 3, 7, 8)]
    assert dataset.read(f"{OUT}/{WORKLOADS}") == [lines[m - 1] for m in (2, 4, 5, 6)]
    names = {path.name for path in dataset.root.glob("blob/**/*.safetensors")}
    assert names == {f"w{m}.safetensors" for m in (1, 3, 7, 8)}
    assert {path.name for path in dataset.root.glob(f"{OUT}/blob/**/*.safetensors")} == {
        f"w{m}.safetensors" for m in (2, 4, 5, 6)
    }
    assert validate(dataset.root).problems == []


def test_curating_in_place_twice_changes_nothing(dataset: Dataset) -> None:
    filled(dataset)
    curate(dataset.root, keep=4)
    files = dataset.files()
    assert curate(dataset.root, keep=4).moved == 0
    assert dataset.files() == files


def test_a_merge_brings_back_what_was_left_out(dataset: Dataset) -> None:
    filled(dataset)
    before = dataset.files()
    curate(dataset.root, keep=4)
    assert merge(dataset.root, [dataset.root / OUT]).problems == []
    after = {path: data for path, data in dataset.files().items() if not path.startswith(OUT)}
    assert sorted(after.pop(WORKLOADS).splitlines()) == sorted(before.pop(WORKLOADS).splitlines())
    assert after == before


def test_in_place_shards_are_folded_first(dataset: Dataset) -> None:
    filled(dataset)
    lines = dataset.read(WORKLOADS)
    dataset.lines(WORKLOADS, *lines[:4])
    gone = dataset.lines(f"workloads/gather/{NAME}.rank0.99999999.jsonl", *lines[4:])
    mine = dataset.lines(f"workloads/gather/{NAME}.rank1.{os.getpid()}.jsonl", dataset.indexed("mine", (5,) * 9))
    report = curate(dataset.root, keep=4)
    assert not gone.exists()
    assert mine.exists()
    assert sizes(dataset) == [1, 3, 7, 8]
    assert any(str(mine) in note for note in report.notes)
    assert (dataset.root / f"blob/workloads/gather/{NAME}/mine.safetensors").exists()


def test_a_blob_that_an_evaluation_names_stays(dataset: Dataset) -> None:
    filled(dataset)
    left = dataset.read(WORKLOADS)[4]
    dataset.lines(TRACES, dataset.trace(workload=left["workload"]))
    curate(dataset.root, keep=4)
    assert sizes(dataset, f"{OUT}/{WORKLOADS}") == [2, 4, 5, 6]
    for folder in (dataset.root, dataset.root / OUT):
        assert (folder / f"blob/workloads/gather/{NAME}/w5.safetensors").exists()


def test_definitions_that_are_not_named_stay_as_they_are(dataset: Dataset) -> None:
    filled(dataset)
    files = dataset.files()
    curate(dataset.root, keep=1, only="nothing*")
    assert dataset.files() == files


@pytest.mark.parametrize("step", range(1, 7))
def test_a_kill_at_any_step_loses_nothing_and_the_next_run_goes_on(
    dataset: Dataset, make: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    filled(dataset, 4)
    curate(filled(make("whole"), 4).root, keep=2)
    lines = set((dataset.root / WORKLOADS).read_bytes().splitlines())
    taken = itertools.count(1)

    def killed_before(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            if next(taken) == step:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, run)

    # Two blobs are copied, lines are appended there and rewritten here, two blobs are removed: six steps.
    for name in ("copy_file", "append_lines", "write_file"):
        killed_before(curated_files, name)
    killed_before(Path, "unlink")
    with pytest.raises(KeyboardInterrupt):
        curate(dataset.root, keep=2)
    monkeypatch.undo()
    files = [file for file in (dataset.root / WORKLOADS, dataset.root / OUT / WORKLOADS) if file.exists()]
    assert {line for file in files for line in file.read_bytes().splitlines()} == lines
    assert validate(dataset.root).problems == []
    curate(dataset.root, keep=2)
    assert dataset.files() == make("whole").files()


def test_stats_of_a_curated_dataset_still_know_all_calls(make: Make) -> None:
    source, into = filled(make("a")), make("into")
    curate(source.root, into.root, keep=4)
    (row,) = stats(into.root)[0]
    assert (row.workloads, row.calls, row.shapes) == (4, 360, 8)
