"""Merging datasets into one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import TraceSet, append_measurements, load_counts, load_measurements, merge, validate
from fib_plugin.dataset.measurements import Measurement
from fib_plugin.dataset.rejected import load_rejected
from fib_plugin.schema import SchemaError

Make = Callable[[str], Dataset]


def full(made: Dataset, uuid: str = "w1", index: tuple[int, ...] = (0, 1), blob: str | None = None) -> Dataset:
    """One record of each kind."""
    made.definition()
    made.solution()
    line = made.indexed(uuid, index, blob)
    made.lines(WORKLOADS, line)
    made.lines(TRACES, made.trace(workload=line["workload"]))
    append_measurements(made.root, "gather", [measurement(uuid)])
    counts(made, "host.1.1", 3)
    return made


def measurement(uuid: str) -> Measurement:
    return Measurement(
        run="r", definition=NAME, axes={"n": 8, "m": 2}, workload=uuid, solution="plain", solution_hash="h",
        status="PASSED", hardware="cpu", libs={}, timestamp="t", solution_ms=1.0, baseline_ms=2.0, ratio=2.0,
    )  # fmt: skip


def counts(made: Dataset, process: str, calls: int) -> None:
    content = {"version": 1, "host": "host", "pid": 1, "started": 1, "calls": {NAME: {'{"m":2,"n":8}': calls}}}
    made.document(f"fib/counts/{process}.json", content)


def test_everything_of_a_source_arrives_in_an_empty_dataset(make: Make) -> None:
    source = full(make("a"))
    report = merge(make("into").root, [source.root])
    into = Dataset(report.root)
    assert report.problems == []
    assert {kind: count for kind, count in report.added.items() if count} == {
        "definitions": 1, "solutions": 1, "workloads": 1, "traces": 1, "measurements": 1, "counts": 1, "blobs": 1
    }  # fmt: skip
    assert set(into.files()) == set(source.files())
    assert into.read(WORKLOADS) == source.read(WORKLOADS)
    assert into.read(TRACES) == source.read(TRACES)
    assert load_measurements(into.root) == load_measurements(source.root)
    assert validate(into.root).problems == []


def test_merging_again_changes_nothing(make: Make) -> None:
    sources = [full(make("a")).root, full(make("b"), "w1", (1, 0)).root]
    into = make("into")
    merge(into.root, sources)
    files = into.files()
    report = merge(into.root, sources)
    assert into.files() == files
    assert sum(report.added.values()) == 0
    assert report.problems == []


def test_a_source_is_only_read(make: Make) -> None:
    source = full(make("a"))
    source.lines(f"workloads/gather/{NAME}.rank0.99999999.jsonl", source.workload("w2", m=3), "garbage")
    files = source.files()
    merge(make("into").root, [source.root])
    assert source.files() == files


def test_shards_of_a_source_arrive_in_the_definitions_file(make: Make) -> None:
    source = full(make("a"))
    source.lines(f"workloads/gather/{NAME}.rank0.99999999.jsonl", source.workload("w2", m=3))
    into = make("into")
    merge(into.root, [source.root])
    assert [line["workload"]["uuid"] for line in into.read(WORKLOADS)] == ["w1", "w2"]


def test_workloads_that_are_there_under_another_uuid_are_duplicates(make: Make) -> None:
    into = full(make("into"), "w1")
    report = merge(into.root, [full(make("a"), "w9").root])
    assert len(into.read(WORKLOADS)) == 1
    assert (report.duplicates, report.added["workloads"]) == (1, 0)


def test_a_blob_whose_path_is_taken_gets_another_and_its_records_follow(make: Make) -> None:
    into, source = full(make("into"), "w1", (0, 1), blob="b"), full(make("a"), "w2", (1, 0), blob="b")
    report = merge(into.root, [source.root])
    first, second = (line["workload"]["inputs"]["index"]["path"] for line in into.read(WORKLOADS))
    assert first != second
    assert (into.root / second).read_bytes() == (source.root / first).read_bytes() != (into.root / first).read_bytes()
    assert into.read(TRACES)[1]["workload"]["inputs"]["index"]["path"] == second
    assert report.added["blobs_renamed"] == 1
    assert validate(into.root).problems == []


def test_unknown_fields_survive_a_changed_path(make: Make) -> None:
    into, source = full(make("into"), "w1", (0, 1), blob="b"), make("a")
    source.definition()
    line = {**source.indexed("w2", (1, 0), blob="b"), "zzz": {"deep": [None, 1.5]}}
    line["workload"]["inputs"]["index"]["note"] = "kept"
    source.lines(WORKLOADS, line)
    merge(into.root, [source.root])
    merged = into.read(WORKLOADS)[1]
    path = merged["workload"]["inputs"]["index"].pop("path")
    assert path != line["workload"]["inputs"]["index"].pop("path")
    assert merged == line


def test_two_workloads_of_one_uuid_get_different_ones(make: Make) -> None:
    into = full(make("into"), "w1", (0, 1))
    merge(into.root, [full(make("a"), "w1", (1, 0)).root])
    first, second = (line["workload"]["uuid"] for line in into.read(WORKLOADS))
    assert first == "w1"
    assert second.startswith("w1-")


def test_a_workload_without_its_blob_is_rejected(make: Make) -> None:
    source, into = full(make("a")), make("into")
    source.lines(WORKLOADS, source.indexed("w1"), source.workload("w2", m=3))
    next(source.root.glob("blob/**/w1.safetensors")).unlink()
    report = merge(into.root, [source.root])
    assert [line["workload"]["uuid"] for line in into.read(WORKLOADS)] == ["w2"]
    assert "blob does not exist" in report.problems[0].problem
    assert len(load_rejected(into.root)) == 1
    assert len(into.read(TRACES)) == 1  # an evaluation is worth keeping without its inputs


def test_a_different_definition_of_one_name_stays_behind_with_its_records(make: Make) -> None:
    into, source = full(make("into")), full(make("a"), "w2", (1, 0))
    axes = {"n": {"type": "var"}, "m": {"type": "var"}, "d": {"type": "const", "value": 5}}
    source.definition(axes=axes)
    before = {path: data for path, data in into.files().items() if not path.startswith("fib/")}
    report = merge(into.root, [source.root])
    assert {path: data for path, data in into.files().items() if not path.startswith("fib/")} == before
    problem = report.problems[0]
    assert problem.file == str(source.root / f"definitions/gather/{NAME}.json")
    assert str(into.root / f"definitions/gather/{NAME}.json") in problem.problem
    rejected = load_rejected(into.root)
    assert {Path(entry.file).name for entry in rejected} == {f"{NAME}.json", "plain.json", f"{NAME}.jsonl"}
    assert len(rejected) == 4


def test_traces_do_not_move_to_another_solution_of_the_same_name(make: Make) -> None:
    into, source = full(make("into")), full(make("a"))
    source.solution(source="def run(*args): 2")
    source.lines(TRACES, source.trace(7.0))
    report = merge(into.root, [source.root])
    assert len(into.read(TRACES)) == 1
    assert {problem.field for problem in report.problems} == {"name", "solution"}


def test_unreadable_records_are_rejected_once_and_reported_each_time(make: Make) -> None:
    source, into = full(make("a")), make("into")
    source.document("definitions/gather/bad.json", {"name": "bad"})
    source.lines(WORKLOADS, "garbage", source.workload("w2"))
    source.lines(TRACES, source.trace(), json.dumps(source.trace())[:50], end="")
    source.lines(f"fib/measurements/gather/{NAME}.jsonl", "{}")
    source.document("fib/counts/h.1.1.json", {"version": 7})
    for _ in range(2):
        report = merge(into.root, [source.root])
        files = {Path(str(problem.file)).name for problem in report.problems}
        assert files == {"bad.json", f"{NAME}.jsonl", "h.1.1.json"}
        assert len(report.notes) == 1
        assert len(load_rejected(into.root)) == 5
    assert len(into.read(WORKLOADS)) == len(into.read(TRACES)) == 1


def test_calls_of_processes_add_up_and_those_of_one_process_do_not(make: Make) -> None:
    into, source = full(make("into")), full(make("a"))
    counts(source, "host.1.1", 10)  # the same process, later
    counts(source, "host.2.5", 100)
    merge(into.root, [source.root])
    assert load_counts(into.root) == {NAME: {'{"m":2,"n":8}': 110}}
    counts(source, "host.1.1", 4)  # an older copy
    merge(into.root, [source.root])
    assert load_counts(into.root) == {NAME: {'{"m":2,"n":8}': 110}}


def test_the_dataset_itself_as_a_source_folds_its_shards(make: Make) -> None:
    into = full(make("into"))
    into.lines(f"workloads/gather/{NAME}.rank0.99999999.jsonl", into.workload("w2", m=3))
    report = merge(into.root, [into.root, full(make("a"), "w3", (1, 1)).root])
    assert len(report.shards_folded) == 1
    assert [line["workload"]["uuid"] for line in into.read(WORKLOADS)] == ["w1", "w2", "w3"]


def test_a_source_that_does_not_exist_is_an_error_before_anything_is_written(make: Make) -> None:
    into = make("into")
    with pytest.raises(SchemaError, match="no such folder"):
        merge(into.root, [full(make("a")).root, into.root / "none"])
    assert into.files() == {}


def test_a_merged_dataset_loads_strictly(make: Make) -> None:
    into = make("into")
    merge(into.root, [full(make("a")).root, full(make("b"), "w2", (1, 0)).root])
    traces = TraceSet.from_path(into.root)
    assert len(traces.workloads[NAME]) == len(traces.traces[NAME]) == 2


# ---- evaluation sidecars ---------------------------------------------------------------------------------------------


def sidecar(made: Dataset, text: str, path: str = f"gather/{NAME}.yaml") -> Path:
    file = made.root / "fib/evaluation" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_evaluation_sidecars_are_carried_over_as_they_are(make: Make) -> None:
    source, into = full(make("a")), make("into")
    text = "# measured on real activations\natol: 0.5\n"
    sidecar(source, text)
    report = merge(into.root, [source.root])
    assert (into.root / f"fib/evaluation/gather/{NAME}.yaml").read_text() == text
    assert (report.added["evaluation_sidecars"], report.problems) == (1, [])
    assert validate(into.root).problems == []


def test_a_sidecar_that_says_the_same_in_other_words_is_no_conflict(make: Make) -> None:
    source, into = full(make("a")), full(make("into"))
    kept = sidecar(into, "atol: 0.5\n")
    sidecar(source, "# the same\natol: 5e-1\n")
    report = merge(into.root, [source.root])
    assert (report.added["evaluation_sidecars"], report.problems) == (0, [])
    assert kept.read_text() == "atol: 0.5\n"


def test_a_sidecar_that_contradicts_the_stored_one_stays_behind_and_is_a_problem(make: Make) -> None:
    source, into = full(make("a")), full(make("into"))
    kept, other = sidecar(into, "atol: 0.5\n"), sidecar(source, "atol: 0.25\n")
    for _ in range(2):
        (problem,) = merge(into.root, [source.root]).problems
        assert problem.file == str(other)
        assert str(kept) in problem.problem
        assert kept.read_text() == "atol: 0.5\n"
        assert [entry.text for entry in load_rejected(into.root)] == ["atol: 0.25\n"]


@pytest.mark.parametrize(
    ("text", "path"),
    [("atoll: 1\n", f"gather/{NAME}.yaml"), ("atol: 1\n", f"other/{NAME}.yaml"), ("atol: 1\n", "gather/none.yaml")],
)
def test_a_sidecar_that_is_of_no_use_stays_behind(make: Make, text: str, path: str) -> None:
    source, into = full(make("a")), make("into")
    file = sidecar(source, text, path)
    (problem,) = merge(into.root, [source.root]).problems
    assert problem.file == str(file)
    assert not (into.root / "fib/evaluation" / path).exists()


# ---- frequencies -----------------------------------------------------------------------------------------------------


def test_calls_count_once_however_often_and_by_whichever_way_a_source_is_merged(make: Make) -> None:
    a, b, middle, into = full(make("a")), full(make("b"), "w2", (1, 0)), make("middle"), make("into")
    counts(b, "other.2.2", 40)
    merge(middle.root, [a.root, b.root])
    for sources in ([a.root], [middle.root, a.root], [b.root, middle.root], [into.root, a.root, a.root]):
        merge(into.root, sources)
    assert load_counts(into.root) == load_counts(middle.root) == {NAME: {'{"m":2,"n":8}': 43}}


def test_shards_of_several_hosts_and_ranks_meet_in_one_file(make: Make) -> None:
    into = make("into")
    into.definition()
    for number, owner in enumerate(("rank0.alpha-1", "rank1.alpha-2", "ranktp0dp1.beta-1", "ranktp1dp1.beta-2")):
        file = into.lines(
            f"workloads/gather/{NAME}.{owner}.jsonl",
            into.indexed("shared", (0, 1)),
            into.workload(f"w{number}", number),
        )
        os.utime(file, (1, 1))  # long ago: a process of another host cannot be asked whether it lives
    report = merge(into.root)
    assert (len(report.shards_folded), report.shards_left, report.duplicates) == (4, [], 3)
    assert sorted(line["workload"]["uuid"] for line in into.read(WORKLOADS)) == ["shared", "w0", "w1", "w2", "w3"]


# ---- torn last lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [WORKLOADS, TRACES, f"fib/measurements/gather/{NAME}.jsonl"])
def test_a_torn_last_line_of_the_dataset_itself_is_repaired_with_a_note(make: Make, path: str) -> None:
    into, source = full(make("into")), full(make("a"), "w2", (1, 0))
    whole = (into.root / path).read_bytes()
    with (into.root / path).open("ab") as file:
        file.write(whole[:60])
    report = merge(into.root, [source.root])
    assert (len(report.notes), report.problems) == (1, [])
    assert str(into.root / path) in report.notes[0]
    assert [entry.raw for entry in load_rejected(into.root)] == [whole[:60]]
    assert (into.root / path).read_bytes().startswith(whole)
    assert len(into.read(path)) == 2
    assert validate(into.root).problems == []


def test_a_last_line_that_only_lacks_its_newline_is_kept(make: Make) -> None:
    into = full(make("into"))
    into.lines(WORKLOADS, *into.read(WORKLOADS), into.workload("w2", m=3), end="")
    report = merge(into.root, [full(make("a"), "w3", (1, 0)).root])
    assert (report.notes, report.problems, load_rejected(into.root)) == ([], [], [])
    assert [line["workload"]["uuid"] for line in into.read(WORKLOADS)] == ["w1", "w2", "w3"]


def test_the_line_that_a_living_process_is_writing_is_left_for_the_next_merge(make: Make) -> None:
    source, into = make("a"), make("into")
    source.definition()
    shard = f"workloads/gather/{NAME}.rank0.{os.getpid()}.jsonl"
    lines = [source.workload(f"w{m}", m=m) for m in (1, 2)]
    source.lines(shard, lines[0], json.dumps(lines[1])[:40], end="")
    report = merge(into.root, [source.root], every=True)
    assert (report.notes, report.problems, load_rejected(into.root)) == ([], [], [])
    source.lines(shard, *lines)
    merge(into.root, [source.root], every=True)
    assert into.read(WORKLOADS) == lines
