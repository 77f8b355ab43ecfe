"""How a table says in which way times were taken, and what puts a ratio in doubt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench_cases import RIGHT, dataset, solution
from rich.console import Console

from fib_plugin.bench import BenchResult, report, run_bench
from fib_plugin.dataset import Conditions


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> BenchResult:
    traces = dataset(tmp_path_factory.mktemp("view"), solution("a_solution_of_mine", RIGHT))
    (found,) = run_bench(traces, threads=1, cache=cache, save=False)
    return found


def shown(*results: BenchResult) -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=80), results)
    return out.getvalue()


def but(result: BenchResult, **changes: Any) -> BenchResult:
    measurement = msgspec.structs.replace(result.measurement, **changes)
    return BenchResult(result.definition, result.workload, result.solution, result.trace, measurement)


def test_where_all_were_timed_alike_it_stands_in_the_title(passed: BenchResult) -> None:
    text = shown(but(passed, timing="graph", cache="cold"), but(passed, timing="graph", cache="cold"))
    assert text.count("timed: graph, cold") == 1
    assert "a_solution_of_mine" in text


def test_what_could_not_be_recorded_into_a_graph_is_told_from_what_could(passed: BenchResult) -> None:
    text = shown(but(passed, timing="graph", cache="cold"), but(passed, timing="plain", cache="cold"))
    rows = [line for line in text.splitlines() if "PASSED" in line]
    assert "graph, cold" in rows[0]
    assert "calls, cold" in rows[1]


def test_a_doubt_is_said_once_for_all_that_it_concerns(passed: BenchResult) -> None:
    doubted = but(passed, doubt="the device was throttled meanwhile (hw_thermal)")
    text = shown(doubted, doubted)
    assert text.count("no win for a_solution_of_mine: the device was throttled meanwhile (hw_thermal)") == 1


def test_a_win_is_a_lower_end_above_the_margin_over_another_op(passed: BenchResult) -> None:
    above = but(passed, baseline="op", ratio=1.2, ratio_low=1.04)
    within = but(passed, baseline="op", ratio=1.2, ratio_low=1.02)
    itself = but(passed, baseline=passed.measurement.solution, ratio=1.2, ratio_low=1.2)
    assert report.wins([above, within, itself, passed], 0.03) == ([above], 2)


def test_the_machine_is_described_at_its_worst(passed: BenchResult) -> None:
    first = Conditions(mhz=(1980.0, 1755.0), temperature_c=61.0, power_w=480.0, load=0.5, held=0.01)
    second = Conditions(mhz=(1980.0, 1980.0), temperature_c=74.0, power_w=300.0, load=3.25, held=0.31)
    text = shown(but(passed, conditions=first), but(passed, conditions=second))
    assert "machine: clock 1755-1980 MHz, 74 C, 480 W, 3.25 load, busy: up to 31% of the time" in text
    assert "busy" not in shown(but(passed, conditions=first))
