"""Measurements beside the traces."""

from sample_dataset import NAME, Dataset

from fib_plugin.dataset import Measurement, append_measurements, load_measurements
from fib_plugin.schema import SchemaError


def measurement(definition: str = NAME, **changed: object) -> Measurement:
    fields = {
        "run": "r1", "definition": definition, "axes": {"n": 8, "m": 2}, "workload": "w1", "solution": "fast",
        "solution_hash": "h1", "baseline": "engine_op", "baseline_hash": "h2", "status": "PASSED", "solution_ms": 1.0,
        "baseline_ms": 1.5, "ratio": 1.5, "ratio_low": 1.4, "hardware": "cpu", "libs": {"torch": "2"}, "timestamp": "t",
    }  # fmt: skip
    return Measurement(**{**fields, **changed})  # type: ignore[arg-type]


def test_what_is_appended_is_loaded(dataset: Dataset) -> None:
    first, failed = measurement(), measurement(status="RUNTIME_ERROR", solution_ms=None, ratio=None, ratio_low=None)
    other = measurement("other")
    append_measurements(dataset.root, "gather", [first, other])
    append_measurements(dataset.root, "gather", [failed])
    assert load_measurements(dataset.root) == [first, failed, other]
    assert f"fib/measurements/gather/{NAME}.jsonl" in dataset.files()


def test_a_torn_line_is_a_problem_and_the_others_load(dataset: Dataset) -> None:
    append_measurements(dataset.root, "gather", [measurement()])
    file = dataset.root / f"fib/measurements/gather/{NAME}.jsonl"
    file.write_bytes(file.read_bytes() + b'{"run": "r2", "defin')
    append_measurements(dataset.root, "gather", [measurement(run="r3")])
    problems: list[SchemaError] = []
    assert [one.run for one in load_measurements(dataset.root, problems)] == ["r1", "r3"]
    assert [(problem.file, problem.line) for problem in problems] == [(str(file), 2)]


def test_a_dataset_without_measurements_has_none(dataset: Dataset) -> None:
    assert load_measurements(dataset.root) == []
