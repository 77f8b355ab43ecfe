"""`fib pack`: what it prints, what it writes and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from fib_plugin import ops
from fib_plugin.cli.pack import pack
from fib_plugin.dataset import TraceSet

SOURCE = {
    "solution.toml": """
name = "slow"
families = ["gemm"]
language = "python"
entry_point = "kernel.py::run"
target_hardware = ["cpu"]

[requires]
dtypes = ["bfloat16"]
""",
    "kernel.py": "def run(A, B):\n    return A @ B.T\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    traces = TraceSet(root)
    traces.add_definition(ops.ALL["gemm"].definition(n=8, k=16))
    traces.add_definition(ops.ALL["gemm"].definition(n=8, k=16, dtype="float32"))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in SOURCE.items():
        (folder / name).write_text(content)
    return folder


def fib_pack(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(pack)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def fib_pack_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = fib_pack(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_it_says_what_is_new_and_what_was_replaced(root: Path, source: Path) -> None:
    first = fib_pack(source, "--dataset", root)
    assert first.exit_code == 0
    assert "new: slow__gemm_n8_k16" in first.stdout
    again = fib_pack(source, "--dataset", root)
    assert "slow__gemm" not in again.stdout
    assert "1 same" in again.stdout
    (source / "kernel.py").write_text(SOURCE["kernel.py"] + "# faster\n")
    assert "replaced: slow__gemm_n8_k16" in fib_pack(source, "--dataset", root).stdout


def test_json_names_solutions_with_their_hash(root: Path, source: Path) -> None:
    code, answer = fib_pack_json(source, "--dataset", root)
    assert code == 0
    (row,) = answer["solutions"]
    assert (row["solution"], row["definition"], row["change"]) == ("slow__gemm_n8_k16", "gemm_n8_k16", "new")
    assert len(row["hash"]) == 64
    assert answer["problems"] == []


def test_list_shows_who_serves_what_and_why_not_and_writes_nothing(root: Path, source: Path) -> None:
    code, answer = fib_pack_json(source, "--dataset", root, "--list")
    assert code == 0
    (row,) = answer["sources"]
    assert row["definitions"] == ["gemm_n8_k16"]
    assert row["refused"] == {"gemm_fp32_n8_k16": "dtype float32 is not among bfloat16"}
    assert not list((root / "solutions").rglob("*.json"))


def test_list_covers_the_shipped_kernels(root: Path) -> None:
    result = fib_pack("--dataset", root, "--list")
    assert result.exit_code == 0
    assert "gemm_cpp" in result.stdout
    assert "none yet of rope" in result.stdout


def test_a_bad_source_exits_with_1_and_names_the_file(root: Path, source: Path) -> None:
    (source / "solution.toml").write_text('name = "slow"\n')
    code, answer = fib_pack_json(source, "--dataset", root)
    assert code == 1
    assert {problem["file"] for problem in answer["problems"]} == {str(source / "solution.toml")}
    assert fib_pack(source, "--dataset", root).exit_code == 1


def test_a_missing_dataset_exits_with_1_and_a_remedy(tmp_path: Path, source: Path) -> None:
    code, answer = fib_pack_json(source, "--dataset", tmp_path / "none")
    assert code == 1
    assert answer["problems"][0]["remedy"] == "create it with `fib dataset init`"


def test_the_dataset_comes_from_the_environment(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_DATASET_PATH", str(root))
    code, answer = fib_pack_json(source)
    assert (code, answer["dataset"]) == (0, str(root))
