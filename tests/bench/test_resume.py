"""Resuming leaves out what was measured before: same definition, content, workload, environment and judging."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cases import NORM, RIGHT, dataset, solution, workload

from fib_plugin.bench import run_bench
from fib_plugin.bench.results import evaluation_hash
from fib_plugin.bench.selection import Batch, drop_measured
from fib_plugin.dataset import Measurement, TraceSet, append_measurements, current_environment, load_measurements
from fib_plugin.ops import evaluation_config
from fib_plugin.schema import content_hash

HERE = current_environment()
ONE = solution("one", RIGHT)
LOAD = workload("w1", batch_size=4).workload
CONFIG = evaluation_hash(evaluation_config(NORM, None))


def measured(**changes: object) -> Measurement:
    values: dict[str, object] = {
        "run": "earlier",
        "definition": NORM.name,
        "axes": {"batch_size": 4},
        "workload": "w1",
        "solution": "one",
        "solution_hash": content_hash(ONE),
        "status": "PASSED",
        "baseline": "",
        "baseline_hash": "",
        "ratio": 0.0,
        "hardware": HERE.hardware,
        "libs": dict(HERE.libs),
        "timestamp": "2026-01-01T00:00:00+00:00",
        "evaluation": CONFIG,
    }
    return Measurement(**{**values, **changes})  # type: ignore[arg-type]


def left(*known: Measurement) -> int:
    batch = Batch(NORM, [(LOAD, [ONE])], [])
    drop_measured([batch], known, HERE, {NORM.name: CONFIG})
    return sum(len(chosen) for _, chosen in batch.jobs)


def test_the_same_question_is_not_asked_twice() -> None:
    assert left(measured()) == 0


def test_a_failure_is_an_answer_too() -> None:
    assert left(measured(status="RUNTIME_ERROR", baseline=None, baseline_hash=None, ratio=None)) == 0


def test_the_name_of_a_solution_does_not_matter_its_content_does() -> None:
    assert left(measured(solution="another name")) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"definition": "another"},
        {"solution_hash": "another source"},
        {"workload": "w2"},
        {"hardware": "another device"},
        {"libs": {**HERE.libs, "torch": "1.0.0"}},
        {"evaluation": "another tolerance"},
        {"evaluation": ""},
        {"source": "live"},
        {"doubt": "the device was throttled meanwhile"},
        {"baseline": "an op", "baseline_hash": "an op that is no longer displaced"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_question_is_asked(changes: dict[str, object]) -> None:
    assert left(measured(**changes)) == 1


def test_each_result_is_on_disk_before_the_next_one_begins(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, ONE, workloads=tuple(workload(f"w{n}", batch_size=n) for n in (1, 2, 3)))
    kept: list[tuple[int, int]] = []

    def note(progress: object) -> None:
        if getattr(progress, "result", None) is not None:
            written = TraceSet.from_path(tmp_path).traces[NORM.name]
            kept.append((len(load_measurements(tmp_path)), len(written)))

    run_bench(traces, progress=note, threads=1, cache=cache)
    assert kept == [(1, 1), (2, 2), (3, 3)]


def test_what_was_measured_elsewhere_is_measured_here(tmp_path: Path, cache: Path) -> None:
    traces = dataset(tmp_path, ONE)
    append_measurements(tmp_path, NORM.op_type, [measured(hardware="another device")])
    assert len(run_bench(traces, resume=True, threads=1, cache=cache)) == 1
    assert run_bench(TraceSet.from_path(tmp_path), resume=True, threads=1, cache=cache) == []
