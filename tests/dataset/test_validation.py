"""What `validate` finds."""

from collections.abc import Callable
from typing import Any

import pytest
from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import validate
from fib_plugin.schema import SchemaError


def good(dataset: Dataset) -> dict[str, Any]:
    dataset.solution()
    line = dataset.indexed("w1")
    dataset.lines(WORKLOADS, line)
    dataset.lines(TRACES, dataset.trace(workload=line["workload"]))
    return line


def only_problem(dataset: Dataset) -> SchemaError:
    problems = validate(dataset.root).problems
    assert [str(problem) for problem in problems[1:]] == []
    assert problems[0].remedy
    return problems[0]


def test_a_good_dataset_has_no_problems(dataset: Dataset) -> None:
    good(dataset)
    result = validate(dataset.root)
    assert result.problems == []
    assert {kind: count for kind, count in result.checked.items() if count} == {
        "definitions": 1, "solutions": 1, "workloads": 1, "traces": 1
    }  # fmt: skip


WORKLOAD_MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "unbound axis": (lambda w: w["axes"].pop("n"), "workload.axes", "'n'"),
    "unknown axis": (lambda w: w["axes"].update(z=1), "workload.axes.z", "'z'"),
    "wrong constant": (lambda w: w["axes"].update(d=5), "workload.axes.d", "is 4"),
    "unbound input": (lambda w: w["inputs"].pop("x"), "workload.inputs", "'x'"),
    "unknown input": (lambda w: w["inputs"].update(z={"type": "random"}), "workload.inputs.z", "'z'"),
    "scalar for a tensor": (
        lambda w: w["inputs"].update(x={"type": "scalar", "value": 1}), "workload.inputs.x", "stands for a tensor"
    ),
    "scalar without value": (
        lambda w: w["inputs"].update(scale={"type": "random"}), "workload.inputs.scale", "no value"
    ),
    "missing key": (
        lambda w: w["inputs"]["index"].update(tensor_key="z"), "workload.inputs.index.tensor_key", "'z'"
    ),
    "missing blob": (
        lambda w: w["inputs"]["index"].update(path="blob/none"), "workload.inputs.index.path", "does not exist"
    ),
    "wrong shape": (lambda w: w["axes"].update(m=3), "workload.inputs.index", r"\[2\], the axes say \[3\]"),
    "wrong dtype": (
        lambda w: w["inputs"].update(x=w["inputs"]["index"]), "workload.inputs.x", "holds I32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WORKLOAD_MISTAKES)
def test_a_workload_that_does_not_fit_its_definition_is_found(dataset: Dataset, mistake: str) -> None:
    line = good(dataset)
    spoil, field, words = WORKLOAD_MISTAKES[mistake]
    spoil(line["workload"])
    file = dataset.lines(WORKLOADS, dataset.workload("w0"), line)
    problem = only_problem(dataset)
    assert (problem.file, problem.line, problem.field) == (str(file), 2, field)
    with pytest.raises(SchemaError, match=words):
        raise problem


@pytest.mark.parametrize("size", [0, 7, 20, -1])
def test_a_torn_blob_is_found(dataset: Dataset, size: int) -> None:
    blob = dataset.root / good(dataset)["workload"]["inputs"]["index"]["path"]
    blob.write_bytes(blob.read_bytes()[:size])
    assert "no safetensors file" in only_problem(dataset).problem


def test_something_else_in_place_of_a_blob_is_found(dataset: Dataset) -> None:
    blob = dataset.root / good(dataset)["workload"]["inputs"]["index"]["path"]
    blob.write_bytes((8).to_bytes(8, "little") + b'{"a": 1}')
    assert "no safetensors file" in only_problem(dataset).problem


def test_a_uuid_that_is_used_twice_is_found(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"), dataset.workload("w1", m=3))
    assert only_problem(dataset).field == "workload.uuid"


def test_names_of_definitions_that_do_not_exist_are_found(dataset: Dataset) -> None:
    good(dataset)
    dataset.solution("other", definition="nope")
    dataset.lines(WORKLOADS, {**dataset.workload(), "definition": "nope"})
    dataset.lines(TRACES, {**dataset.trace(), "definition": "nope"})
    fields = [(problem.field, "'nope'" in problem.problem) for problem in validate(dataset.root).problems]
    assert fields == [("definition", True)] * 3 + [("solution", True)]


def test_a_trace_of_an_unknown_solution_is_found(dataset: Dataset) -> None:
    dataset.lines(TRACES, dataset.trace())
    assert only_problem(dataset).field == "solution"


def test_a_trace_of_a_solution_without_evaluation_is_found(dataset: Dataset) -> None:
    dataset.solution()
    dataset.lines(TRACES, dataset.trace(evaluation=None))
    assert only_problem(dataset).field == "evaluation"


@pytest.mark.parametrize("kind", ["definition", "solution"])
def test_duplicate_names_are_found(dataset: Dataset, kind: str) -> None:
    content = dataset.definition() if kind == "definition" else dataset.solution()
    dataset.document(f"{kind}s/z/copy.json", content)
    assert only_problem(dataset).field == "name"


def test_every_unreadable_record_is_found(dataset: Dataset) -> None:
    good(dataset)
    dataset.document("definitions/gather/bad.json", {"name": "bad", "op_type": "x"})
    dataset.document("solutions/bad.json", {})
    dataset.lines(WORKLOADS, dataset.indexed("w1"), "garbage")
    dataset.lines(f"fib/measurements/gather/{NAME}.jsonl", "garbage")
    dataset.document("fib/counts/bad.json", {})
    files = {str(problem.file).removeprefix(f"{dataset.root}/") for problem in validate(dataset.root).problems}
    assert files == {
        "definitions/gather/bad.json",
        "solutions/bad.json",
        WORKLOADS,
        f"fib/measurements/gather/{NAME}.jsonl",
        "fib/counts/bad.json",
    }


def test_a_name_that_cannot_be_a_file_is_found(dataset: Dataset) -> None:
    content = dataset.definition()
    dataset.document("definitions/gather/odd.json", {**content, "name": "../odd"})
    assert only_problem(dataset).field == "name"


def test_a_folder_that_does_not_exist_is_a_problem(dataset: Dataset) -> None:
    assert "no such folder" in validate(dataset.root / "none").problems[0].problem
