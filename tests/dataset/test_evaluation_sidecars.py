"""Sidecars as `validate` sees them: every file in their place is either of use or a problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_dataset import NAME, Dataset

from fib_plugin.dataset import validate
from fib_plugin.schema import SchemaError


def write(dataset: Dataset, text: str, path: str = f"gather/{NAME}.yaml") -> Path:
    file = dataset.root / "fib" / "evaluation" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def only_problem(dataset: Dataset) -> SchemaError:
    (problem,) = validate(dataset.root).problems
    assert problem.remedy
    return problem


def test_a_good_sidecar_is_counted_and_no_problem(dataset: Dataset) -> None:
    write(dataset, "atol: 0.1\nmutates: [x]\n")
    result = validate(dataset.root)
    assert result.problems == []
    assert result.checked["evaluation sidecars"] == 1


@pytest.mark.parametrize(
    ("text", "field"), [("atoll: 0.1\n", "atoll"), ("mutates: [y]\n", "mutates.0"), ("atol: [\n", None)]
)
def test_a_bad_sidecar_is_found(text: str, field: str | None, dataset: Dataset) -> None:
    file = write(dataset, text)
    problem = only_problem(dataset)
    assert (problem.file, problem.field) == (str(file), field)


@pytest.mark.parametrize("path", ["gather/nope.yaml", f"other/{NAME}.yaml", f"{NAME}.yaml", f"gather/{NAME}.yml"])
def test_a_sidecar_that_nothing_reads_is_found(path: str, dataset: Dataset) -> None:
    file = write(dataset, "atol: 0.1\n", path)
    assert only_problem(dataset).file == str(file)
