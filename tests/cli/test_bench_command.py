"""`fib bench` for who works on a solution: from its folder, with readable failures, budgets, devices and profiles."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from bench.bench_cases import NORM, RIGHT, dataset, solution, workload
from bench.test_candidates import TOML, folder
from rich.console import Console
from typer.testing import CliRunner, Result

from fib_plugin import bench
from fib_plugin.bench import Progress, report
from fib_plugin.bench.results import BenchResult
from fib_plugin.cli import app, bench_view
from fib_plugin.dataset import TraceSet, load_measurements
from fib_plugin.schema.record import dump_pretty


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("FIB_DATASET_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("FIB_BENCH_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "data", solution("engine_op", NORM.reference, author="engine"))
    return tmp_path / "data"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of `run_bench`, which does nothing."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(bench, "run_bench", lambda *_, **named: found.update(named))
    return found


def fib(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", "--timeout", "300", *map(str, arguments)])  # the host may be busy


def test_a_folder_and_a_json_are_benched_as_they_are_and_nothing_is_written(tmp_path: Path, data: Path) -> None:
    (tmp_path / "one.json").write_bytes(dump_pretty(solution("one", RIGHT)))
    result = fib(folder(tmp_path / "work"), tmp_path / "one.json")
    assert result.exit_code == 0, result.output
    assert "2 PASSED" in result.output
    assert "--save keeps" in result.output
    assert load_measurements(data) == []
    assert TraceSet.from_path(data).get_solution(f"mine__{NORM.name}") is None


def test_speed_is_shown_against_the_displaced_op_and_the_roof_and_kept_when_asked(tmp_path: Path, data: Path) -> None:
    result = fib(folder(tmp_path / "work"), "--save")
    assert "1 PASSED" in result.output, result.output
    (row,) = [line.split() for line in result.output.splitlines() if line.strip().startswith("mine")]
    name, status, ms, displaced, speedup, interval, roof, bound = row
    assert (name, status, bound) == ("mine", "PASSED", "m")
    assert "batch_size=4  timed: calls, warm" in result.output
    assert "machine: clock" in result.output
    assert "of 1 win by more than 3% (FIB_APPLY_MARGIN)" in result.output
    low, high = interval.strip("()").split("-")
    assert float(low) <= float(speedup.rstrip("x")) <= float(high)
    (kept,) = load_measurements(data)
    assert kept.solution == f"mine__{NORM.name}"
    assert TraceSet.from_path(data).get_solution(kept.solution) is not None
    assert (kept.bound, kept.baseline) == ("memory", "engine_op")
    assert (kept.timing, kept.cache, kept.doubt) == ("plain", "warm", "")
    assert kept.conditions is not None
    assert kept.conditions.load is not None
    numbers = (kept.solution_ms, kept.baseline_ms, kept.ratio, kept.ratio_low, kept.ratio_high, kept.roof_ms)
    own, other, ratio, least, most, best = (0.0 if number is None else number for number in numbers)
    assert (f"{own:.4f}", f"{other:.4f}", f"{ratio:.2f}x") == (ms, displaced, speedup)
    assert (f"{least:.2f}", f"{most:.2f}") == (low, high)
    assert f"{best / own:.0%}" == roof
    assert best > 0


def test_wrong_elements_are_shown_with_place_values_and_both_tolerances(tmp_path: Path) -> None:
    wrong = RIGHT.replace("return torch", "y = torch") + "    y[2, 5] = 77.0\n    return y\n"
    output = fib(folder(tmp_path / "work", source=wrong)).output
    assert "[2, 5] 77 expected" in output
    assert "allowed: atol 0.0001 + rtol 0.0001 * |expected|" in output
    assert "1 INCORRECT_NUMERICAL" in output


def test_a_compilers_errors_are_shown_with_the_line_that_it_names(tmp_path: Path) -> None:
    toml = TOML.replace('"python"', '"cpp"\nbinding = "tvm-ffi"').replace("kernel.py", "kernel.cpp")
    work = folder(tmp_path / "work", toml)
    (work / "kernel.cpp").write_text("int run( { return 1; }\n")
    output = fib(work).output
    assert "1 COMPILE_ERROR" in output
    assert "kernel.cpp:1:" in output
    assert "ninja" not in output
    assert "ninja" in fib(work, "--full-logs").output
    assert "try: mend the source" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not there (name a folder with a solution.toml"),
        (["work", "--dataset", "nowhere"], "nowhere is no folder"),
        (["work", "--definitions", "zzz"], "no definition in"),
        (["bad"], "solution.toml: families: unknown family 'rmsnrm' (did you mean 'rmsnorm'?)"),
        (["work", "--devices", "cpu,cuda:77"], "this host has no device cuda:77 (it has"),
        (["work", "--devices", " ,"], "--devices ' ,' names none (give some, such as cpu"),
        (["work", "--devices", ""], "--devices '' names none (give some, such as cpu"),
        (["--profile", "--ray", "h:1"], "--profile runs on this host only (leave out --ray)"),
    ],
)
def test_a_wrong_request_says_what_where_and_what_to_try(arguments: list[str], words: str, tmp_path: Path) -> None:
    folder(tmp_path / "work")
    folder(tmp_path / "bad", TOML.replace('["rmsnorm"]', '["rmsnrm"]'))
    result = fib(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "address", "paths"),
    [
        (["--ray"], "auto", 0),
        (["--ray", "--resume"], "auto", 0),
        (["--ray", "10.0.0.1:6379"], "10.0.0.1:6379", 0),
        (["--ray", "ray://head:10001", "work"], "ray://head:10001", 1),
        (["--ray", "work"], "auto", 1),
        (["--ray=local", "work"], "local", 1),
        (["work"], None, 1),
    ],
)
def test_ray_takes_an_address_or_none(
    arguments: list[str], address: str | None, paths: int, tmp_path: Path, asked: dict[str, Any]
) -> None:
    folder(tmp_path / "work")
    result = fib(*arguments)
    assert result.exit_code == 0, result.output
    assert asked["ray"] == address
    assert len(asked["candidates"] or ()) == paths


def test_budget_and_devices_are_handed_on(asked: dict[str, Any]) -> None:
    fib("--budget", "90", "--devices", "cuda:0, cuda:3")
    assert (asked["budget"], asked["devices"], asked["save"]) == (90.0, ["cuda:0", "cuda:3"], True)


def test_graphs_are_the_default_and_can_be_left_out(asked: dict[str, Any]) -> None:
    fib()
    assert asked["graphs"] is True
    fib("--no-graphs")
    assert asked["graphs"] is False


def test_a_warm_cache_is_used_when_it_is_asked_for(asked: dict[str, Any]) -> None:
    fib()
    assert asked["warm"] is False
    fib("--warm")
    assert asked["warm"] is True


def test_cupti_is_asked_only_when_that_is_asked_for(asked: dict[str, Any]) -> None:
    fib()
    assert asked["kernels"] is False
    fib("--kernels")
    assert asked["kernels"] is True


def test_a_spent_budget_is_said(data: Path) -> None:
    assert "the budget of 0 s was spent (continue with --resume)" in fib("--budget", "0").output


def test_profile_says_where_its_report_is(tmp_path: Path) -> None:
    told = json.loads(fib(folder(tmp_path / "work"), "--profile", "--json").stdout)
    (one,) = told["profiles"]
    assert one["solution"] == f"mine__{NORM.name}"
    assert "this device is a CPU" in one["said"]
    assert "aten::" in Path(one["report"]).read_text()


def test_elsewhere_than_on_a_terminal_a_line_now_and_then_tells_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_view, "_LINE_EVERY_S", -1.0)
    view = bench_view.View(quiet=False)
    with view:
        view.show(Progress(3, 12, "gemm M=4: mine", left_s=200.0))
    assert "3 of 12 done, 3:20 left, gemm M=4: mine" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (42, "0:42"), (725, "12:05"), (10_800, "3:00:00")])
def test_durations_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert bench_view.duration(seconds) == text


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[BenchResult], list[Progress]]:
    """Two workloads, one solution that is right and one that raises; no op of an engine."""
    told: list[Progress] = []
    raising = solution("bad", "def run(x, weight):\n    raise ValueError('line\\n' * 99)\n")
    loads = (workload("w1", batch_size=1), workload("w2", batch_size=2))
    traces = dataset(tmp_path_factory.mktemp("data"), raising, solution("one", RIGHT), workloads=loads)
    cache = tmp_path_factory.mktemp("cache")
    return bench.run_bench(traces, progress=told.append, threads=1, cache=cache), told


def test_what_a_run_will_still_take_is_judged_by_what_was_done(ran: tuple[list[BenchResult], list[Progress]]) -> None:
    _, told = ran
    assert told[0].left_s is None
    left = [one.left_s for one in told if one.result is not None]
    assert left[0] is not None
    assert left[0] > 0
    assert left[-1] == 0.0


def test_workloads_that_fail_in_the_same_way_are_told_once_and_long_logs_are_cut(
    ran: tuple[list[BenchResult], list[Progress]],
) -> None:
    results, _ = ran
    assert "bad on 2 workloads, the first with batch_size=1: RUNTIME_ERROR" in shown(results)
    assert "more lines in the trace (all of them: --full-logs)" in shown(results)
    assert shown(results, None).count("line\n") == 99


def test_a_dataset_without_an_op_to_displace_says_why_nothing_is_compared(
    ran: tuple[list[BenchResult], list[Progress]],
) -> None:
    assert f"nothing was compared for {NORM.name}: the dataset has no op of an engine" in shown(ran[0])


def shown(results: list[BenchResult], *lines: int | None) -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=80), results, *lines)
    return out.getvalue()
