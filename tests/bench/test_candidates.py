"""Solutions under work, read from their folders and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.bench_cases import ADD_NORM, NORM, RIGHT, solution

from fib_plugin.bench import BenchError
from fib_plugin.bench.candidates import read_candidates
from fib_plugin.schema import Definition, SchemaError
from fib_plugin.schema.record import dump_pretty

TOML = """
name = "mine"
families = ["rmsnorm"]
language = "python"
entry_point = "kernel.py::run"
destination_passing_style = false
target_hardware = ["cpu"]
"""
DEFINITIONS = {definition.name: definition for definition in (NORM, ADD_NORM)}


def folder(root: Path, toml: str = TOML, source: str = RIGHT) -> Path:
    root.mkdir(parents=True)
    (root / "solution.toml").write_text(toml)
    (root / "kernel.py").write_text(source)
    return root


def test_a_folder_gives_a_solution_for_every_definition_that_it_fits(tmp_path: Path) -> None:
    half = NORM.model_copy(update={"name": "another"})
    found = read_candidates([folder(tmp_path / "mine")], {**DEFINITIONS, half.name: half})
    assert [(one.name, one.definition) for one in found.solutions] == [
        (f"mine__{NORM.name}", NORM.name),
        ("mine__another", "another"),
    ]
    assert found.solutions[0].sources[0].content == RIGHT


def test_folders_below_a_folder_are_found(tmp_path: Path) -> None:
    folder(tmp_path / "all/a")
    folder(tmp_path / "all/b", TOML.replace("mine", "yours"))
    found = read_candidates([tmp_path / "all"], DEFINITIONS)
    assert {one.name for one in found.solutions} == {f"mine__{NORM.name}", f"yours__{NORM.name}"}


def test_a_solution_json_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(dump_pretty(solution("one", RIGHT)))
    (found,) = read_candidates([file], DEFINITIONS).solutions
    assert found == solution("one", RIGHT)


def test_a_definition_that_is_refused_is_said_beside_those_that_fit(tmp_path: Path) -> None:
    toml = TOML.replace('["rmsnorm"]', '["rmsnorm", "fused_add_rmsnorm"]') + "\n[requires.outputs]\n"
    toml += 'fused_add_rmsnorm = ["output"]\n'
    found = read_candidates([folder(tmp_path / "mine", toml)], DEFINITIONS)
    assert [one.definition for one in found.solutions] == [NORM.name]
    assert found.refusals == [f"mine does not serve {ADD_NORM.name}: outputs output, residual_out are not output"]


@pytest.mark.parametrize(
    ("definitions", "words"),
    [
        ({ADD_NORM.name: ADD_NORM}, "is for rmsnorm; the dataset has no definition of that family"),
        ({}, "none at all .capture some"),
    ],
)
def test_a_folder_that_fits_nothing_says_what_it_is_for(
    tmp_path: Path, definitions: dict[str, Definition], words: str
) -> None:
    with pytest.raises(BenchError, match=words):
        read_candidates([folder(tmp_path / "mine")], definitions)


def test_a_path_that_is_not_there_and_a_json_for_an_unknown_definition_are_said(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nothing is not there \(name a folder"):
        read_candidates([tmp_path / "nothing"], DEFINITIONS)
    file = tmp_path / "one.json"
    file.write_bytes(dump_pretty(solution("one", RIGHT)))
    with pytest.raises(BenchError, match=f"one is for {NORM.name}, which the dataset does not have"):
        read_candidates([file], {ADD_NORM.name: ADD_NORM})


def test_what_cannot_be_read_names_file_field_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"solution.toml: language: .*one of python"):
        read_candidates([folder(tmp_path / "mine", TOML.replace('"python"', '"pyton"'))], DEFINITIONS)
    file = tmp_path / "one.json"
    file.write_text("{}")
    with pytest.raises(SchemaError, match=r"one.json"):
        read_candidates([file], DEFINITIONS)
