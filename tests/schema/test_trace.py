"""Trace, Evaluation and Workload: what they refuse."""

from typing import Any

import pytest

from fib_plugin.schema import EvaluationStatus, SchemaError, Trace, parse

RAN = {"environment": {"hardware": "cpu"}, "timestamp": "2026-01-01T00:00:00"}
WORKLOAD: dict[str, Any] = {"axes": {"M": 1}, "inputs": {}, "uuid": "u"}


def trace(status: str, **evaluation: Any) -> Trace:
    fields = {"definition": "d", "workload": WORKLOAD, "solution": "s"}
    return parse(Trace, {**fields, "evaluation": {**RAN, "status": status, **evaluation}}, "t.jsonl", 7)


@pytest.mark.parametrize("status", list(EvaluationStatus))
@pytest.mark.parametrize("correctness", [True, False])
@pytest.mark.parametrize("performance", [True, False])
def test_only_a_passed_run_has_times_and_only_a_compared_one_has_errors(
    status: EvaluationStatus, correctness: bool, performance: bool
) -> None:
    metrics = {"correctness": {} if correctness else None, "performance": {} if performance else None}
    wanted = {"PASSED": (True, True), "INCORRECT_NUMERICAL": (True, False)}.get(status.value, (False, False))
    if (correctness, performance) == wanted:
        assert trace(status.value, **metrics).evaluation is not None
        return
    with pytest.raises(SchemaError) as caught:
        trace(status.value, **metrics)
    assert caught.value.field in ("evaluation.correctness", "evaluation.performance")
    assert status.value in caught.value.problem


def test_the_place_of_a_problem_is_in_its_message() -> None:
    with pytest.raises(SchemaError, match=r"^t\.jsonl:7: evaluation\.status: .*PASSED"):
        trace("MAYBE")


def test_a_negative_error_is_refused() -> None:
    with pytest.raises(SchemaError, match="never negative"):
        trace("INCORRECT_NUMERICAL", correctness={"max_absolute_error": -1})


def test_a_workload_is_a_trace_without_solution_and_evaluation() -> None:
    line = {"definition": "d", "workload": WORKLOAD}
    assert parse(Trace, line).is_workload
    assert parse(Trace, {**line, "solution": None, "evaluation": None}).is_workload
    assert not parse(Trace, {**line, "solution": "s"}).is_workload


@pytest.mark.parametrize("path", ["/etc/x.safetensors", "../x.safetensors", "blob/../../x.safetensors"])
def test_a_blob_outside_the_dataset_is_refused(path: str) -> None:
    source = {"type": "safetensors", "path": path, "tensor_key": "k"}
    with pytest.raises(SchemaError) as caught:
        parse(Trace, {"definition": "d", "workload": {**WORKLOAD, "inputs": {"x": source}}})
    assert caught.value.field == "workload.inputs.x.path"


def test_a_number_in_quotes_is_no_scalar() -> None:
    source = {"type": "scalar", "value": "3"}
    with pytest.raises(SchemaError, match="'3'"):
        parse(Trace, {"definition": "d", "workload": {**WORKLOAD, "inputs": {"x": source}}})


@pytest.mark.parametrize(
    "text",
    [b'{"a": ', b"", b"\xff\xfe", b'{"a": NaN,,}', b"[" * 100_000],
    ids=["cut off", "empty", "no text", "damaged", "nested"],
)
def test_broken_json_is_a_schema_error_with_its_place(text: bytes) -> None:
    with pytest.raises(SchemaError, match="broken JSON") as caught:
        parse(Trace, text, "t.jsonl", 3)
    assert (caught.value.file, caught.value.line) == ("t.jsonl", 3)


def test_json_that_is_no_object_is_refused() -> None:
    with pytest.raises(SchemaError, match="list"):
        parse(Trace, b"[1]")
