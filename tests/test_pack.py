"""Packing: what a solution.toml means, what is written, and how errors read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.pack import Change, Source, find_sources, pack
from fib_plugin.schema import SchemaError, Solution

MANIFEST = """
name = "norm"
families = ["rmsnorm", "fused_add_rmsnorm"]
language = "python"
entry_point = "kernel.py::{family}"
target_hardware = ["cpu"]
"""
KERNEL = """EPS = 1e-3  # fib: eps


def rmsnorm(hidden_states, weight):
    return hidden_states * EPS


def fused_add_rmsnorm(hidden_states, residual, weight):
    return hidden_states, residual
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    traces = TraceSet(root)
    traces.add_definition(ops.ALL["rmsnorm"].definition(hidden_size=64, eps=1e-6))
    traces.add_definition(ops.ALL["rmsnorm"].definition(hidden_size=128, eps=1e-5, dtype="float32"))
    traces.add_definition(ops.ALL["fused_add_rmsnorm"].definition(hidden_size=64, eps=1e-5))
    traces.add_definition(ops.ALL["gemm"].definition(n=8, k=8))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def write_source(folder: Path, manifest: str = MANIFEST, kernel: str = KERNEL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "solution.toml").write_text(manifest)
    (folder / "kernel.py").write_text(kernel)
    return folder


def names(solutions: list[Solution]) -> set[str]:
    return {solution.name for solution in solutions}


def problem(folder: Path) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        Source.read(folder / "solution.toml")
    return caught.value


def test_there_is_one_solution_a_definition_of_the_families(root: Path, source: Path) -> None:
    packed = pack(root, [source])
    expected = {
        "norm__rmsnorm_eps1e-06_h64",
        "norm__rmsnorm_fp32_h128",
        "norm__fused_add_rmsnorm_h64",
    }
    assert names(packed) == expected
    stored = TraceSet.from_path(root)
    assert {s.name for many in stored.solutions.values() for s in many} == expected


def test_the_entry_point_names_the_family_of_the_definition(root: Path, source: Path) -> None:
    entries = {solution.definition: solution.spec.entry_point for solution in pack(root, [source])}
    assert entries["fused_add_rmsnorm_h64"] == "kernel.py::fused_add_rmsnorm"
    assert entries["rmsnorm_fp32_h128"] == "kernel.py::rmsnorm"


def test_marked_constants_take_the_value_of_each_definition(root: Path, source: Path) -> None:
    first_lines = {s.definition: s.entry_source.content.splitlines()[0] for s in pack(root, [source])}
    assert first_lines["rmsnorm_eps1e-06_h64"] == "EPS = 1e-06  # fib: eps"
    assert first_lines["rmsnorm_fp32_h128"] == "EPS = 1e-05  # fib: eps"


def test_an_unknown_constant_names_file_and_line_and_loses_nothing_else(root: Path, source: Path) -> None:
    bad = write_source(source.parent / "bad", MANIFEST.replace('"norm"', '"bad"'), "\nX = 1  # fib: epsilon\n")
    with pytest.raises(SchemaError, match=r"kernel\.py:2: the definition has no constant 'epsilon'") as caught:
        pack(root, [bad, source])
    assert len(caught.value.flat()) == 3
    assert len(TraceSet.from_path(root).solutions) == 3


def test_packing_again_changes_nothing(root: Path, source: Path) -> None:
    pack(root, [source])
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*.json")}
    changes: list[Change] = []
    pack(root, [source], lambda _, change: changes.append(change))
    assert changes == [Change.SAME] * 3
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.json")} == files


def test_a_changed_kernel_replaces_the_solution_of_its_name(root: Path, source: Path) -> None:
    pack(root, [source])
    write_source(source, kernel=KERNEL.replace("* EPS", "* EPS * 2"))
    changes: list[Change] = []
    pack(root, [source], lambda _, change: changes.append(change))
    assert changes == [Change.REPLACED] * 3
    stored = TraceSet.from_path(root)
    assert [len(many) for many in stored.solutions.values()] == [1, 1, 1]
    assert all("* EPS * 2" in many[0].entry_source.content for many in stored.solutions.values())


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        ('dtypes = ["float32"]', {"norm__rmsnorm_fp32_h128"}),
        ("max = {hidden_size = 64}", {"norm__rmsnorm_eps1e-06_h64", "norm__fused_add_rmsnorm_h64"}),
        ("min = {hidden_size = 65}", {"norm__rmsnorm_fp32_h128"}),
        (
            'outputs = {fused_add_rmsnorm = ["output"]}',
            {"norm__rmsnorm_eps1e-06_h64", "norm__rmsnorm_fp32_h128"},
        ),
    ],
)
def test_only_what_meets_the_requirements_is_served(
    root: Path, source: Path, requires: str, expected: set[str]
) -> None:
    write_source(source, f"{MANIFEST}\n[requires]\n{requires}\n")
    assert names(pack(root, [source])) == expected


def test_further_files_are_packed_under_their_own_names(root: Path, source: Path) -> None:
    (source.parent / "shared.py").write_text("TWO = 2\nEPS = 0.0  # fib: eps\n")
    write_source(source, MANIFEST + 'sources = ["../shared.py"]\n')
    for solution in pack(root, [source]):
        assert [file.path for file in solution.sources] == ["kernel.py", "shared.py"]
        assert "EPS = 1e-0" in solution.sources[1].content, "marks count in every file"


def test_two_files_of_one_name_are_refused(root: Path, source: Path) -> None:
    (source.parent / "kernel.py").write_text("")
    write_source(source, MANIFEST + 'sources = ["../kernel.py"]\n')
    with pytest.raises(SchemaError, match=r"sources: two files are named kernel\.py"):
        pack(root, [source])


def test_a_missing_kernel_file_names_field_and_remedy(root: Path, source: Path) -> None:
    (source / "kernel.py").unlink()
    with pytest.raises(SchemaError, match=r"entry_point: the file kernel\.py cannot be read.*relative to the folder"):
        pack(root, [source])


def test_an_unknown_key_suggests_the_known_one(source: Path) -> None:
    error = problem(write_source(source, MANIFEST + 'dependancies = ["torch"]\n'))
    assert (error.field, error.problem, error.remedy) == (
        "dependancies",
        "unknown key",
        "did you mean 'dependencies'?",
    )
    assert error.file == str(source / "solution.toml")


def test_every_missing_key_is_named(source: Path) -> None:
    error = problem(write_source(source, 'name = "norm"\n'))
    assert [part.field for part in error.flat()] == ["families", "language", "entry_point", "target_hardware"]
    assert all(part.remedy for part in error.flat())


def test_an_unknown_family_suggests_the_known_one(source: Path) -> None:
    error = problem(write_source(source, MANIFEST.replace('"rmsnorm",', '"rms_norm",')))
    assert error.problem == "unknown family 'rms_norm'"
    assert error.remedy == "did you mean 'rmsnorm'?"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('language = "fortran"', "language"),
        ('entry_point = "kernel.py"', "entry_point"),
        ('destination_passing_style = "no"', "destination_passing_style"),
        ('binding = "ctypes"', "binding"),
        ("target_hardware = []", "target_hardware"),
        ('[requires]\nmax = {hidden_size = "big"}', "requires.max"),
        ('[requires]\ndtype = ["float32"]', "requires.dtype"),
    ],
)
def test_a_bad_value_names_its_field_and_a_remedy(source: Path, line: str, field: str) -> None:
    kept = [old for old in MANIFEST.splitlines() if old.split(" =")[0] != line.split(" =")[0]]
    error = problem(write_source(source, "\n".join([*kept, line, ""])))
    assert error.field == field
    assert error.remedy


def test_broken_toml_names_the_file(source: Path) -> None:
    error = problem(write_source(source, "name = \n"))
    assert error.file == str(source / "solution.toml")
    assert "not TOML" in error.problem


def test_a_folder_without_sources_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"holds no solution\.toml"):
        find_sources([tmp_path])


def test_a_source_may_be_named_by_folder_or_file_or_tree_and_counts_once(source: Path) -> None:
    assert len(find_sources([source, source / "solution.toml", source.parent])) == 1


def test_shipped_sources_are_the_default() -> None:
    assert {"rmsnorm_cpp", "gemm_triton", "sampling_torch"} <= {source.name for source in find_sources()}
