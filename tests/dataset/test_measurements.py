"""Measurements beside the traces."""

import pytest
from sample_dataset import NAME, Dataset

from fib_plugin.dataset import Measurement, append_measurements, load_measurements
from fib_plugin.dataset.measurements import moment
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


def test_measurements_of_before_there_were_live_ones_are_of_the_bench(dataset: Dataset) -> None:
    append_measurements(dataset.root, "gather", [measurement(), measurement(source="live")])
    file = f"fib/measurements/gather/{NAME}.jsonl"
    old, new = dataset.read(file)
    del old["source"]
    dataset.lines(file, old, new)
    assert [one.source for one in load_measurements(dataset.root)] == ["bench", "live"]


@pytest.mark.parametrize("spoilt", ["two on a line", "one on two lines"])
def test_a_line_is_a_record_also_where_all_lines_together_would_decode(dataset: Dataset, spoilt: str) -> None:
    append_measurements(dataset.root, "gather", [measurement(), measurement(run="r2"), measurement(run="r3")])
    file = dataset.root / f"fib/measurements/gather/{NAME}.jsonl"
    first, second, third = file.read_text().splitlines()
    first = f"{first} {second}" if spoilt == "two on a line" else first.replace(",", ",\n", 1)
    file.write_text(f"{first}\n{third}\n")
    problems: list[SchemaError] = []
    assert [one.run for one in load_measurements(dataset.root, problems)] == ["r3"]
    assert [problem.line for problem in problems] == ([1] if spoilt == "two on a line" else [1, 2])


def test_blank_lines_are_no_measurements_and_no_problems(dataset: Dataset) -> None:
    append_measurements(dataset.root, "gather", [measurement(), measurement(run="r2")])
    file = dataset.root / f"fib/measurements/gather/{NAME}.jsonl"
    file.write_text(file.read_text().replace("\n", "\r\n \n"))
    problems: list[SchemaError] = []
    assert [one.run for one in load_measurements(dataset.root, problems)] == ["r1", "r2"]
    assert problems == []


def test_a_file_that_cannot_be_read_is_a_problem_and_the_others_load(dataset: Dataset) -> None:
    append_measurements(dataset.root, "gather", [measurement("other")])
    broken = dataset.root / f"fib/measurements/gather/{NAME}.jsonl"
    broken.symlink_to(dataset.root / "nowhere")
    problems: list[SchemaError] = []
    assert [one.definition for one in load_measurements(dataset.root, problems)] == ["other"]
    assert [problem.file for problem in problems] == [str(broken)]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.000001+00:00"),
        ("2026-01-01T01:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:01+00:00"),
        ("yesterday", "1971-01-01T00:00:00"),
    ],
)
def test_moments_order_timestamps_of_any_zone(earlier: str, later: str) -> None:
    assert moment(earlier) < moment(later)


def test_a_dataset_without_measurements_has_none(dataset: Dataset) -> None:
    assert load_measurements(dataset.root) == []
