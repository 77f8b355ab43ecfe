"""`fib dataset`: what it prints, what it does and how it exits."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fib_plugin.cli.dataset import app
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import AxisVar, Definition, DType, RandomInput, TensorSpec, Trace, Workload

SHARD = "workloads/copy/copy_d.rank0.99999999.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with one definition and one workload."""
    root = tmp_path / "dataset"
    traces = TraceSet(root)
    traces.add_definition(
        Definition(
            name="copy_d",
            op_type="copy",
            axes={"n": AxisVar()},
            inputs={"x": TensorSpec(shape=["n"], dtype=DType.FLOAT32)},
            outputs={"y": TensorSpec(shape=["n"], dtype=DType.FLOAT32)},
            reference="def run(x):\n    return x\n",
        )
    )
    traces.add_workloads([workload("w1", 1)])
    return root


def workload(uuid: str, n: int) -> Trace:
    return Trace(definition="copy_d", workload=Workload(axes={"n": n}, inputs={"x": RandomInput()}, uuid=uuid))


def fib(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def fib_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = fib(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_init_makes_the_folders_and_can_be_repeated(tmp_path: Path) -> None:
    code, made = fib_json("init", tmp_path / "new")
    assert code == 0
    folders = {str(Path(folder).relative_to(tmp_path / "new")) for folder in made["created"]}
    assert folders == {"definitions", "solutions", "workloads", "traces", "blob/workloads", "fib"}
    assert fib_json("init", tmp_path / "new") == (0, {"dataset": str(tmp_path / "new"), "created": []})
    assert fib("init", tmp_path / "new").exit_code == 0


def test_init_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, answer = fib_json("init", tmp_path / "file")
    assert (code, len(answer["problems"])) == (1, 1)


def test_init_uses_the_dataset_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_DATASET_PATH", str(tmp_path / "env"))
    assert fib("init").exit_code == 0
    assert (tmp_path / "env/definitions").is_dir()


def test_validate_accepts_a_good_dataset(root: Path) -> None:
    code, answer = fib_json("validate", root)
    assert (code, answer["problems"]) == (0, [])
    assert {answer["checked"][kind] for kind in ("definitions", "workloads")} == {1}
    result = fib("validate", root)
    assert result.exit_code == 0
    assert "no problems" in result.stdout


def test_validate_names_file_line_field_and_remedy(root: Path) -> None:
    with (root / "workloads/copy/copy_d.jsonl").open("a") as file:
        file.write(
            '{"definition": "copy_d", "workload": {"axes": {}, "inputs": {"x": {"type": "random"}}, "uuid": "w2"}}\n'
        )
    code, answer = fib_json("validate", root)
    assert code == 1
    (problem,) = answer["problems"]
    assert problem["file"] == str(root / "workloads/copy/copy_d.jsonl")
    assert (problem["line"], problem["field"]) == (2, "workload.axes")
    assert problem["remedy"]
    result = fib("validate", root)
    assert result.exit_code == 1
    assert "copy_d.jsonl:2: workload.axes: the variable axis 'n' has no value" in result.stdout


def test_validate_and_stats_refuse_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    for command in ("validate", "stats"):
        code, answer = fib_json(command, tmp_path / "none")
        assert (code, len(answer["problems"])) == (1, 1)
        assert fib(command, tmp_path / "none").exit_code == 1


def test_stats_shows_a_row_for_each_definition(root: Path) -> None:
    counts = {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": {"copy_d": {'{"n":1}': 42}}}
    (root / "fib/counts").mkdir(parents=True)
    (root / "fib/counts/h.1.1.json").write_text(json.dumps(counts))
    code, answer = fib_json("stats", root)
    assert code == 0
    counted = {"workloads": 1, "calls": 42, "share": 1.0, "solutions": 0, "traces": 0, "shapes": 1, "time_share": None}
    assert answer["definitions"] == [{"definition": "copy_d", "op_type": "copy", **counted}]
    shown = fib("stats", root).stdout
    assert "copy_d" in shown
    assert "42" in shown
    assert "100.0%" in shown


def test_merge_folds_shards_in_place(root: Path) -> None:
    (root / SHARD).write_text(workload("w2", 2).model_dump_json(exclude_unset=True) + "\n")
    code, answer = fib_json("merge", "--into", root)
    assert (code, answer["added"]) == (0, {"workloads": 1})
    assert not (root / SHARD).exists()
    assert "nothing to do" in fib("merge", "--into", root).stdout


def test_merge_brings_sources_in(root: Path, tmp_path: Path) -> None:
    result = fib("merge", root, "--into", tmp_path / "into")
    assert result.exit_code == 0
    assert "workloads added" in result.stdout
    assert fib("validate", tmp_path / "into").exit_code == 0


def test_merge_exits_with_one_when_a_record_was_rejected(root: Path, tmp_path: Path) -> None:
    (root / SHARD).write_text("[garbage]\n")
    code, answer = fib_json("merge", root, "--into", tmp_path / "into")
    assert (code, answer["rejected"], len(answer["problems"])) == (1, 1, 1)


def test_merge_of_a_killed_capture_is_no_failure(root: Path) -> None:
    (root / SHARD).write_text('{"definition": "copy_d", "work')
    result = fib("merge", "--into", root)
    assert result.exit_code == 0
    assert "note:" in result.stdout


def test_merge_refuses_a_source_that_does_not_exist(root: Path, tmp_path: Path) -> None:
    result = fib("merge", tmp_path / "none", "--into", root)
    assert result.exit_code == 1
    assert "no such folder" in result.stderr


def test_text_with_square_brackets_is_shown_as_it_is(root: Path) -> None:
    (root / "definitions/copy/[bold]odd.json").write_text("[1]")
    assert "[bold]odd.json" in fib("validate", root).stdout
