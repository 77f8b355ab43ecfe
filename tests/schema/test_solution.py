"""Solution: what it refuses, and what its content hash depends on."""

from typing import Any

import pytest

from fib_plugin.schema import SchemaError, Solution, content_hash, parse

SOLUTION: dict[str, Any] = {
    "name": "fast",
    "definition": "gemm_n8_k4",
    "author": "someone",
    "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run"},
    "sources": [{"path": "main.py", "content": "def run(): ..."}, {"path": "lib/a.py", "content": "A = 1"}],
}


def solution(spec: dict[str, Any] | None = None, **changed: Any) -> Solution:
    return parse(Solution, {**SOLUTION, "spec": {**SOLUTION["spec"], **(spec or {})}, **changed}, "s.json")


@pytest.mark.parametrize("path", ["../main.py", "a/../../main.py", "/main.py", "C:/main.py", "..\\main.py", "a\0.py"])
def test_a_source_outside_its_folder_is_refused(path: str) -> None:
    with pytest.raises(SchemaError) as caught:
        solution(sources=[*SOLUTION["sources"], {"path": path, "content": "x"}])
    assert caught.value.field == "sources.2.path"


def test_two_sources_of_one_path_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"main\.py"):
        solution(sources=[SOLUTION["sources"][0]] * 2)


def test_an_entry_file_that_is_no_source_is_refused() -> None:
    with pytest.raises(SchemaError) as caught:
        solution(spec={"entry_point": "other.py::run"})
    assert caught.value.field == "spec.entry_point"
    assert "lib/a.py" in caught.value.remedy


@pytest.mark.parametrize("entry", ["main.py", "main.py::", "::run", "a::b::c"])
def test_an_entry_point_has_a_file_and_a_function(entry: str) -> None:
    with pytest.raises(SchemaError, match="file::function"):
        solution(spec={"entry_point": entry})


def test_destination_passing_is_the_default() -> None:
    assert solution().spec.destination_passing_style
    assert solution().spec.binding is None


def test_the_entry_is_found() -> None:
    read = solution()
    assert (read.spec.entry_file, read.spec.entry_symbol) == ("main.py", "run")
    assert read.entry_source.content == "def run(): ..."


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"author": "other"},
        {"description": "text"},
        {"sources": SOLUTION["sources"][::-1]},
        {"spec": {"destination_passing_style": True, "dependencies": []}},
    ],
)
def test_the_hash_ignores_what_does_not_change_behaviour(changed: dict[str, Any]) -> None:
    assert content_hash(solution(**changed)) == content_hash(solution())


@pytest.mark.parametrize(
    "changed",
    [
        {"definition": "other"},
        {"spec": {"destination_passing_style": False}},
        {"spec": {"language": "triton"}},
        {"spec": {"dependencies": ["cublas"]}},
        {"spec": {"unknown_flag": 1}},
        {"sources": [{"path": "main.py", "content": "def run(): 1"}, SOLUTION["sources"][1]]},
        {"sources": [SOLUTION["sources"][0], {"path": "lib/b.py", "content": "A = 1"}]},
    ],
)
def test_the_hash_depends_on_what_changes_behaviour(changed: dict[str, Any]) -> None:
    assert content_hash(solution(**changed)) != content_hash(solution())
