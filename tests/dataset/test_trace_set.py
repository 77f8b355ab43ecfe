"""TraceSet: loading, finding and adding."""

import json
from pathlib import Path
from typing import Any

import pytest
from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import TraceSet, append_lines
from fib_plugin.schema import Definition, SchemaError, Solution, Trace, dump_pretty, parse


def filled(dataset: Dataset) -> Dataset:
    dataset.solution()
    dataset.lines(WORKLOADS, dataset.workload("w1"), dataset.workload("w2", m=3))
    dataset.lines(TRACES, dataset.trace())
    return dataset


def test_a_dataset_is_dictionaries_by_definition(dataset: Dataset) -> None:
    traces = TraceSet.from_path(filled(dataset).root)
    assert list(traces.definitions) == [NAME]
    assert [solution.name for solution in traces.solutions[NAME]] == ["plain"]
    assert [trace.workload.uuid for trace in traces.workloads[NAME]] == ["w1", "w2"]
    assert [trace.solution for trace in traces.traces[NAME]] == ["plain"]
    assert traces.problems == []


def test_traces_laid_out_by_other_tools_are_found(dataset: Dataset) -> None:
    filled(dataset).lines(f"traces/gather/{NAME}.jsonl", dataset.trace())
    assert len(TraceSet.from_path(dataset.root).traces[NAME]) == 2


def test_shards_are_read_like_merged_files(dataset: Dataset) -> None:
    dataset.lines(f"workloads/gather/{NAME}.rank0.host-12.jsonl", dataset.workload("s"))
    assert [trace.workload.uuid for trace in TraceSet.from_path(dataset.root).workloads[NAME]] == ["s"]


def test_a_folder_that_does_not_exist_is_empty_and_stays_absent(tmp_path: Path) -> None:
    traces = TraceSet.from_path(tmp_path / "none")
    assert (traces.definitions, traces.workloads, traces.problems) == ({}, {}, [])
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SchemaError, match="not a folder"):
        TraceSet.from_path(tmp_path / "file")
    assert len(TraceSet.from_path(tmp_path / "file", strict=False).problems) == 1


def break_everything(dataset: Dataset) -> dict[str, int | None]:
    """One record of each kind is broken; file -> line of the problem."""
    root = filled(dataset).root
    dataset.document("definitions/gather/a_broken.json", {"name": "a_broken"})
    (root / "solutions/someone/torn.json").write_text('{"name": ')
    dataset.lines(WORKLOADS, dataset.workload("w1"), "not json", dataset.workload("w2", m=3))
    dataset.lines(TRACES, dataset.trace(), dataset.trace(evaluation={"status": "PASSED"}))
    return {"definitions/gather/a_broken.json": None, "solutions/someone/torn.json": None, WORKLOADS: 2, TRACES: 2}


def test_problems_are_placed_and_everything_else_is_loaded(dataset: Dataset) -> None:
    broken = break_everything(dataset)
    traces = TraceSet.from_path(dataset.root, strict=False)
    assert len(traces.definitions) == len(traces.solutions[NAME]) == len(traces.traces[NAME]) == 1
    assert len(traces.workloads[NAME]) == 2
    places = {(str(Path(str(one.file)).relative_to(dataset.root)), one.line) for one in traces.problems}
    assert places == set(broken.items())
    assert "evaluation.timestamp" in {one.field for one in traces.problems}


def test_a_strict_load_raises_whatever_record_is_broken(dataset: Dataset) -> None:
    for path, line in break_everything(dataset).items():
        with pytest.raises(SchemaError) as caught:
            TraceSet.from_path(dataset.root)
        assert (caught.value.file, caught.value.line) == (str(dataset.root / path), line)
        (dataset.root / path).unlink()
    TraceSet.from_path(dataset.root)


def test_a_torn_last_line_is_a_problem_and_no_exception(dataset: Dataset) -> None:
    line = json.dumps(dataset.workload("w2"))
    dataset.lines(WORKLOADS, dataset.workload("w1"), line[:40], end="")
    traces = TraceSet.from_path(dataset.root, strict=False)
    assert [trace.workload.uuid for trace in traces.workloads[NAME]] == ["w1"]
    assert [problem.line for problem in traces.problems] == [2]


def test_a_whole_last_line_without_newline_is_loaded(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"), dataset.workload("w2"), end="")
    assert len(TraceSet.from_path(dataset.root).workloads[NAME]) == 2


@pytest.mark.parametrize("kind", ["definition", "solution"])
def test_a_duplicate_name_is_a_problem_that_names_both_files(dataset: Dataset, kind: str) -> None:
    dataset.solution()
    content = dataset.definition() if kind == "definition" else dataset.solution()
    second = dataset.document(f"{kind}s/z/copy.json", content)
    with pytest.raises(SchemaError, match=f"the {kind} .* is already in") as caught:
        TraceSet.from_path(dataset.root)
    assert caught.value.file == str(second)
    assert f"{content['name']}.json" in caught.value.problem
    loaded = TraceSet.from_path(dataset.root, strict=False)
    assert (len(loaded.definitions), len(loaded.solutions[NAME])) == (1, 1)


@pytest.mark.parametrize("path", [WORKLOADS, TRACES])
def test_a_line_in_the_wrong_folder_is_a_problem(dataset: Dataset, path: str) -> None:
    dataset.lines(path, dataset.trace() if path == WORKLOADS else dataset.workload())
    assert TraceSet.from_path(dataset.root, strict=False).problems[0].field == "solution"


def test_an_unreadable_file_is_a_problem(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(dataset)
    real = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == f"{NAME}.jsonl" and "workloads" in self.parts:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    traces = TraceSet.from_path(dataset.root, strict=False)
    assert [problem.problem for problem in traces.problems] == ["cannot be read: Permission denied"]
    assert len(traces.traces[NAME]) == 1


def test_the_best_trace_is_the_fastest_within_the_bounds(dataset: Dataset) -> None:
    dataset.solution()
    wide = dataset.workload("w2", m=64)["workload"]
    failed = {"environment": {"hardware": "cpu"}, "timestamp": "t", "status": "RUNTIME_ERROR"}
    dataset.lines(
        TRACES,
        dataset.trace(2.0),
        dataset.trace(3.0, workload=wide),
        dataset.trace(9.0, error=0.5),
        dataset.trace(9.0, error="NaN"),
        dataset.trace(evaluation=failed),
    )
    traces = TraceSet.from_path(dataset.root)

    def best(**options: Any) -> float | None:
        trace = traces.get_best_trace(NAME, **options)
        return trace.evaluation.performance.speedup_factor if trace else None  # type: ignore[union-attr]

    assert best() == 3.0
    assert best(axes={"m": 2}) == 2.0
    assert best(axes={"m": 2}, max_abs_error=1.0, max_rel_error=1.0) == 9.0
    assert best(axes={"m": 3}) is None
    assert traces.get_best_trace("unknown") is None
    assert len(traces.filter_traces(NAME)) == 2
    assert len(traces.filter_traces(NAME, atol=1.0, rtol=1.0)) == 3


def test_what_is_added_is_found_by_the_next_reader(dataset: Dataset) -> None:
    traces = TraceSet.from_path(dataset.root)
    definition = parse(Definition, dataset.definition("other_d4"))
    (dataset.root / "definitions/gather/other_d4.json").unlink()
    solution = parse(Solution, {**dataset.solution("s"), "definition": "other_d4"})
    (dataset.root / f"solutions/someone/gather/{NAME}/s.json").unlink()
    workload = parse(Trace, {**dataset.workload("w9"), "definition": "other_d4"})
    trace = parse(Trace, {**dataset.trace(), "definition": "other_d4", "solution": "s"})
    traces.add_definition(definition)
    traces.add_solution(solution)
    traces.add_workloads([workload])
    traces.add_traces([trace])
    for found in (traces, TraceSet.from_path(dataset.root)):
        assert found.definitions["other_d4"] == definition
        assert found.get_solution("s") == solution
        assert found.workloads["other_d4"] == [workload]
        assert found.traces["other_d4"] == [trace]
    assert (dataset.root / "definitions/gather/other_d4.json").read_bytes() == dump_pretty(definition)
    assert {path for path in dataset.files() if "other_d4" in path} == {
        "definitions/gather/other_d4.json",
        "solutions/someone/gather/other_d4/s.json",
        "workloads/gather/other_d4.jsonl",
        "traces/someone/gather/other_d4.jsonl",
    }


def test_a_set_without_a_root_lives_in_memory(dataset: Dataset) -> None:
    traces = TraceSet()
    traces.add_definition(parse(Definition, dataset.definition()))
    traces.add_solution(parse(Solution, dataset.solution()))
    traces.add_workloads([parse(Trace, dataset.workload())])
    traces.add_traces([parse(Trace, dataset.trace())])
    assert len(traces.workloads[NAME]) == len(traces.traces[NAME]) == 1


def test_a_different_definition_of_the_same_name_is_never_overwritten(dataset: Dataset) -> None:
    stored = (dataset.root / f"definitions/gather/{NAME}.json").read_bytes()
    stale = TraceSet(dataset.root)  # has not seen what is on disk
    fresh = TraceSet.from_path(dataset.root)
    axes = {"n": {"type": "var"}, "m": {"type": "var"}, "d": {"type": "const", "value": 5}}
    other = parse(Definition, {**json.loads(stored), "axes": axes})
    for traces in (stale, fresh):
        with pytest.raises(SchemaError, match="different definition") as caught:
            traces.add_definition(other)
        assert caught.value.file == str(dataset.root / f"definitions/gather/{NAME}.json")
        assert caught.value.field == "axes"
    assert (dataset.root / f"definitions/gather/{NAME}.json").read_bytes() == stored


def test_a_definition_that_differs_in_prose_only_is_the_same(dataset: Dataset) -> None:
    stored = (dataset.root / f"definitions/gather/{NAME}.json").read_bytes()
    traces = TraceSet.from_path(dataset.root)
    traces.add_definition(parse(Definition, {**json.loads(stored), "description": "other words", "tags": ["a"]}))
    assert (dataset.root / f"definitions/gather/{NAME}.json").read_bytes() == stored


def test_a_different_solution_of_the_same_name_is_refused_unless_it_replaces(dataset: Dataset) -> None:
    old, new = parse(Solution, dataset.solution()), parse(Solution, dataset.solution(source="def run(): 2"))
    dataset.document(f"solutions/someone/gather/{NAME}/plain.json", json.loads(dump_pretty(old)))
    stale, traces = TraceSet.from_path(dataset.root), TraceSet.from_path(dataset.root)
    traces.add_solution(old)
    with pytest.raises(SchemaError, match=r"different solution 'plain'"):
        traces.add_solution(new)
    assert TraceSet.from_path(dataset.root).get_solution("plain") == old
    stale.add_solution(new, replace=True)
    assert stale.solutions[NAME] == TraceSet.from_path(dataset.root).solutions[NAME] == [new]


def test_records_of_unknown_definitions_and_solutions_are_refused(dataset: Dataset) -> None:
    traces = TraceSet.from_path(dataset.root)
    with pytest.raises(SchemaError, match="'nope'"):
        traces.add_workloads([parse(Trace, {**dataset.workload(), "definition": "nope"})])
    with pytest.raises(SchemaError, match="'plain'"):
        traces.add_traces([parse(Trace, dataset.trace())])
    with pytest.raises(SchemaError, match="'nope'"):
        traces.add_solution(parse(Solution, {**dataset.solution(), "definition": "nope"}))


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "a\0b"])
def test_a_name_that_leads_out_of_the_dataset_is_refused(dataset: Dataset, name: str) -> None:
    traces = TraceSet.from_path(dataset.root)
    before = dataset.files()
    definition = json.loads((dataset.root / f"definitions/gather/{NAME}.json").read_text())
    for changed in ({"name": name}, {"op_type": name, "name": "fine"}):
        with pytest.raises(SchemaError, match="cannot be a file name"):
            traces.add_definition(parse(Definition, {**definition, **changed}))
    assert dataset.files() == before


def test_a_workload_is_readable_after_another_writer_was_killed(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"), '{"definition', end="")
    traces = TraceSet.from_path(dataset.root, strict=False)
    traces.add_workloads([parse(Trace, dataset.workload("w2"))])
    append_lines(dataset.root / WORKLOADS, [json.dumps(dataset.workload("w3")).encode()])
    again = TraceSet.from_path(dataset.root, strict=False)
    assert [trace.workload.uuid for trace in again.workloads[NAME]] == ["w1", "w2", "w3"]
