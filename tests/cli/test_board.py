"""`fib board`: what it prints for full, empty and broken datasets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from fib_plugin.cli.board import board
from fib_plugin.dataset import append_measurements, current_environment

sys.path.insert(0, str(Path(__file__).parents[1] / "board"))
from board_cases import dataset, engine_everywhere, evaluated, measured

app = typer.Typer()
app.command()(board)


def fib_board(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "240"})


def fib_board_json(*arguments: object) -> dict[str, Any]:
    result = fib_board(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Both solutions of copy_b measured on this machine: ann's at 1.50, bob's failed."""
    traces = dataset(tmp_path / "dataset")
    here = {"hardware": current_environment().hardware, "libs": dict(current_environment().libs)}
    lines = [
        measured(traces, "engine_copy_b", "b1", 1.0, **here),
        measured(traces, "ann_copy_b", "b1", 1.5, **here),
        measured(traces, "bob_copy_b", "b1", None, status="COMPILE_ERROR", baseline_ms=None, **here),
    ]
    append_measurements(tmp_path / "dataset", "copy", lines)
    traces.add_traces([evaluated("ann_copy_b", "copy_b", "b1", 12.0, environment=current_environment())])
    return tmp_path / "dataset"


def row(output: str, *words: str) -> list[str]:
    """The cells of the one table row that has all the words."""
    rows = [line.split() for line in output.splitlines() if set(words) <= set(line.split())]
    assert len(rows) == 1, output
    return rows[0]


def test_authors_are_ranked_beside_the_baseline(root: Path) -> None:
    output = fib_board("--dataset", root).stdout
    assert row(output, "engine", "base")[:5] == ["base", "engine", "1/1", "1.00x", "-"]
    assert row(output, "1", "ann")[:5] == ["1", "ann", "1/1", "1.50x", "12.00x"]
    assert row(output, "2", "bob")[:5] == ["2", "bob", "0/1", "-", "-"]


def test_a_solutions_row_stands_under_its_definition(root: Path) -> None:
    output = fib_board("--dataset", root).stdout
    assert row(output, "copy_b", "engine_copy_b")[2:6] == ["engine", "1/1", "1.00x", "-"]
    assert row(output, "ann_copy_b") == ["ann_copy_b", "ann", "1/1", "1.50x", "12.00x", "100%", "1/1", "-"]


def test_how_times_were_taken_is_shown_and_can_be_chosen(root: Path) -> None:
    ratios = {"ratio_low": 1.2, "timing": "graph", "cache": "cold", "hardware": current_environment().hardware}
    traces = dataset(root)
    line = measured(traces, "bob_copy_b", "b1", 1.5, **ratios, libs=current_environment().libs)
    append_measurements(root, "copy", [line])
    assert row(fib_board("--dataset", root).stdout, "bob_copy_b")[-3:] == ["1/1", "graph,", "cold"]
    assert row(fib_board("--dataset", root, "--timing", "graph").stdout, "bob_copy_b")[-3:] == ["1/1", "graph,", "cold"]
    plain = fib_board("--dataset", root, "--timing", "plain").stdout.split("failures")[0]
    assert row(plain, "bob_copy_b")[1:] == ["bob", "1/1", "-", "-", "-", "-", "-"], "it passes, untimed in this way"
    wrong = fib_board("--dataset", root, "--timing", "fast")
    assert wrong.exit_code == 2
    assert "'fast' is not one of 'graph', 'plain'" in wrong.output


def test_the_machine_is_named(root: Path) -> None:
    assert f"measured on {current_environment().hardware}" in fib_board("--dataset", root).stdout


def test_json_holds_the_same_numbers(root: Path) -> None:
    content = fib_board_json("--dataset", root)
    ann = next(line for line in content["authors"] if line["author"] == "ann")
    assert (ann["evaluated"], ann["correct"], ann["speedup"]) == (1, 1, pytest.approx(1.5))
    assert (ann["fast_p"]["1.5"], ann["fast_p"]["2.0"]) == (1.0, 0.0)
    assert [line["baseline"] for line in content["authors"]] == [True, False, False]
    (b,) = [score for score in content["definitions"] if score["definition"] == "copy_b"]
    assert [line["solution"] for line in b["solutions"]] == ["engine_copy_b", "ann_copy_b", "bob_copy_b"]


def test_definition_and_author_limit_what_is_shown(root: Path) -> None:
    content = fib_board_json("--dataset", root, "--definition", "copy_a", "--author", "bob")
    assert [score["definition"] for score in content["definitions"]] == ["copy_a"]
    assert [line["author"] for line in content["authors"]] == ["engine", "bob"]


def test_another_level_gets_a_column(root: Path) -> None:
    assert "1.3" in row(fib_board("--dataset", root, "--p", "1.3").stdout, "rank", "author", "ref.")
    assert fib_board_json("--dataset", root, "--p", "1.3")["authors"][1]["fast_p"]["1.3"] == 1.0


def test_an_empty_dataset_says_what_to_do(tmp_path: Path) -> None:
    result = fib_board("--dataset", tmp_path / "nothing")
    assert result.exit_code == 0
    assert "FIB_ENABLE_TRACING=1" in result.stdout


def test_a_dataset_that_was_never_benched_says_what_to_do(tmp_path: Path) -> None:
    dataset(tmp_path / "dataset")
    assert "fib bench" in fib_board("--dataset", tmp_path / "dataset").stdout


def test_unreadable_records_are_counted_and_the_rest_is_shown(root: Path) -> None:
    with (root / "fib/measurements/copy/copy_b.jsonl").open("a") as file:
        file.write("{broken\n")
    (root / "solutions/ann/copy/copy_a/ann_copy_a.json").write_text("{")
    result = fib_board("--dataset", root)
    assert result.exit_code == 0
    assert "2 records could not be read" in result.stdout
    assert "1.50x" in result.stdout
    assert len(fib_board_json("--dataset", root)["problems"]) == 2


def test_an_unusable_setting_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_STRICT", "perhaps")
    result = fib_board()
    assert result.exit_code == 1
    assert "FIB_STRICT" in result.output
    assert "Traceback" not in result.output


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    from board_cases import solution

    traces = dataset(tmp_path / "dataset")
    traces.add_solution(solution("fast[red]", "copy_b", "ann[bold]", "def run(x): return +x"))
    append_measurements(
        tmp_path / "dataset", "copy", [*engine_everywhere(traces), measured(traces, "fast[red]", "b1", 1.5)]
    )
    output = fib_board("--dataset", tmp_path / "dataset").stdout
    assert "fast[red]" in output
    assert "ann[bold]" in output
