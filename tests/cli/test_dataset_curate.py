"""`fib dataset curate`: what it prints, what it does and how it exits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fib_plugin import ops
from fib_plugin.cli.dataset import app
from fib_plugin.dataset import Measurement, TraceSet, append_measurements, axes_key
from fib_plugin.dataset.curation_plot import NoMatplotlib, check_plotting
from fib_plugin.schema import RandomInput, Trace, Workload

GEMM = ops.ALL["gemm"].definition(n=8, k=4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """GEMMs of 1 to 60 rows; M was called 100 times at 1 and once at each other."""
    root = tmp_path / "dataset"
    traces = TraceSet(root)
    traces.add_definition(GEMM)
    inputs = {"A": RandomInput(), "B": RandomInput()}
    traces.add_workloads(
        Trace(definition=GEMM.name, workload=Workload(axes={"M": m}, inputs=inputs, uuid=f"w{m}")) for m in range(1, 61)
    )
    calls = {GEMM.name: {axes_key({"M": m}): 100 if m == 1 else 1 for m in range(1, 61)}}
    (root / "fib/counts").mkdir(parents=True)
    counts = {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": calls}
    (root / "fib/counts/h.1.1.json").write_text(json.dumps(counts))
    return root


def fib(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["curate", *map(str, arguments)], env={"COLUMNS": "200"})


def fib_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = fib(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def workloads(root: Path) -> int:
    return len((root / f"workloads/gemm/{GEMM.name}.jsonl").read_text().splitlines())


def test_fifty_are_kept_unless_told_otherwise(root: Path, tmp_path: Path) -> None:
    code, answer = fib_json("--dataset", root, "--into", tmp_path / "a")
    assert (code, answer["total"]["workloads"], answer["total"]["kept"]) == (0, 60, 50)
    assert workloads(tmp_path / "a") == 50
    fib_json("--dataset", root, "--into", tmp_path / "b", "--keep", 10)
    assert (workloads(tmp_path / "b"), workloads(root)) == (10, 60)


def test_without_into_the_dataset_itself_is_curated_and_the_place_of_the_rest_is_told(root: Path) -> None:
    result = fib("--dataset", root, "--keep", 10)
    assert result.exit_code == 0
    assert f"50 workloads moved to {root}/fib/curated_out" in result.stdout
    assert workloads(root) == 10
    again = fib("--dataset", root, "--keep", 10)
    assert "moved" not in again.stdout
    assert workloads(root) == 10


def test_the_dataset_of_the_environment_is_curated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_DATASET_PATH", str(root))
    assert fib_json("--keep", 10)[1]["moved"] == 50
    assert workloads(root) == 10


def test_a_dry_run_changes_nothing(root: Path, tmp_path: Path) -> None:
    result = fib("--dataset", root, "--keep", 10, "--dry-run", "--into", tmp_path / "into")
    assert (result.exit_code, workloads(root)) == (0, 60)
    assert not (tmp_path / "into").exists()
    assert "dry run" in result.stdout


def test_only_matching_definitions_are_looked_at(root: Path) -> None:
    assert fib_json("--dataset", root, "--keep", 10, "--definitions", "moe*")[1]["definitions"] == []
    assert workloads(root) == 60


def test_shares_of_calls_are_printed_exact_and_by_class(root: Path) -> None:
    arguments = ("--dataset", root, "--keep", 6, "--dry-run")
    (row,) = fib_json(*arguments)[1]["definitions"]
    assert [one["axes"]["M"] for one in row["workloads_kept"]][::5] == [1, 60]
    assert row["calls"] == 159
    assert row["calls_share_exact"] == pytest.approx(105 / 159)
    assert row["calls_share_by_class"] == 1.0
    assert row["workloads_kept"][0] == {"uuid": "w1", "axes": {"M": 1}, "stands_for": 100}
    shown = fib(*arguments).stdout
    assert "66.0%" in shown
    assert "100.0%" in shown


def test_the_share_of_time_says_whether_it_is_measured_or_estimated(root: Path) -> None:
    arguments = ("--dataset", root, "--keep", 2, "--dry-run")
    estimated = fib_json(*arguments)[1]["definitions"][0]
    assert estimated["time_source"] == "estimated"
    append_measurements(
        root,
        "gemm",
        [
            Measurement(
                run="r", definition=GEMM.name, axes={"M": m}, workload="w", solution="s", solution_hash="h",
                status="PASSED", hardware="gpu", libs={}, timestamp="t", baseline_ms=ms,
            )
            for m, ms in ((1, 1.0), (60, 10.0))
        ],
    )  # fmt: skip
    measured = fib_json(*arguments)[1]["definitions"][0]
    assert measured["time_source"] == "measured"
    # In doublings, up to 10 rows are nearer to 1 row (1 ms), the 50 others to 60 (10 ms); 1 and 60 rows are kept.
    assert measured["time_share_exact"] == pytest.approx((100 * 1 + 10) / (109 * 1 + 50 * 10))
    assert "measured" in fib(*arguments).stdout


def test_problems_are_printed_and_the_exit_code_is_one(root: Path, tmp_path: Path) -> None:
    with (root / f"workloads/gemm/{GEMM.name}.jsonl").open("a") as file:
        file.write("garbage\n")
    code, answer = fib_json("--dataset", root, "--into", tmp_path / "into")
    assert (code, [problem["line"] for problem in answer["problems"]]) == (1, [61])
    assert workloads(tmp_path / "into") == 50


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    code, answer = fib_json("--dataset", tmp_path / "none")
    assert (code, answer["problems"][0]["problem"]) == (1, "no such folder")
    assert "no such folder" in fib("--dataset", tmp_path / "none").stderr


def test_plots_without_matplotlib_are_refused_before_anything_is_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoMatplotlib):
        check_plotting()
    result = fib("--dataset", root, "--keep", 10, "--plot", tmp_path / "plots")
    assert result.exit_code == 1
    assert "pip install 'fib-plugin[plot]'" in result.stderr
    assert workloads(root) == 60


def test_plots_are_png_files_one_for_each_definition(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    code, answer = fib_json("--dataset", root, "--keep", 10, "--plot", tmp_path / "plots", "--dry-run")
    file = tmp_path / f"plots/gemm_{GEMM.name}.png"
    assert (code, answer["plots"]) == (0, [str(file)])
    assert file.read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "plots").iterdir()) == [file]
