"""Capture in a running process: started, stopped and bounded while calls go on and are counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fib_plugin import ops, settings
from fib_plugin.capture import control
from fib_plugin.capture.config import CaptureConfig, Limits, Rule
from fib_plugin.capture.tap import Tap
from fib_plugin.dataset import TraceSet, load_counts
from fib_plugin.runtime import Runtime

SAMPLING = ops.ALL["top_p_sampling"].definition(vocab_size=2)
GEMM = ops.ALL["gemm"].definition(n=2, k=3)


@pytest.fixture
def start(environment: pytest.MonkeyPatch) -> Iterator[Callable[..., Runtime]]:
    made: list[Runtime] = []

    def start(limit: int | None = None, tracing: bool = True, **rule: Any) -> Runtime:
        config = CaptureConfig(default=Rule(**rule), quota=Limits(workloads_per_definition=limit))
        made.append(Runtime(settings.load(), apply=False, tracing=tracing, capture=config))
        return made[-1]

    yield start
    for runtime in made:
        runtime.close()


def call(runtime: Runtime, number: float, rows: int = 1) -> None:
    site = runtime.site("toy.sampling", SAMPLING)
    assert site.attempt(rows, (torch.zeros(rows, 2), torch.full((rows,), number))) is None


def kept(runtime: Runtime, dataset: Path) -> list[Any]:
    """What a reader of the dataset finds, after all was written."""
    assert runtime.writer.flush()
    return TraceSet.from_path(dataset).workloads.get(SAMPLING.name, [])


def status(runtime: Runtime) -> dict[str, Any]:
    content: dict[str, Any] = runtime.snapshot()["status"]["capture"]
    return content


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_by_default_the_site_is_plain_and_one_workload_a_size_is_written(start: Any, dataset: Path) -> None:
    runtime = start()
    for number in range(5):
        call(runtime, number, rows=1 + number % 2)
    assert len(kept(runtime, dataset)) == 2
    assert not isinstance(runtime.sites[0], Tap)


def test_all_writes_every_call_of_different_content(start: Any, dataset: Path) -> None:
    runtime = start(keep="all")
    for number in (1, 2, 2, 3):
        call(runtime, number)
    assert len(kept(runtime, dataset)) == 3
    assert runtime.sites[0].entries[1].calls == 4


def test_the_dataset_names_the_workloads_that_a_reservoir_holds(start: Any, dataset: Path) -> None:
    runtime = start(keep="reservoir", k=4)
    for number in range(500):
        call(runtime, number)
    written = {trace.workload.uuid for trace in kept(runtime, dataset)}
    (file,) = (dataset / "fib/reservoirs").iterdir()
    held = json.loads(file.read_bytes())["held"][SAMPLING.name]
    members = {uuid for _, uuid in held["members"]}
    assert (held["k"], len(members)) == (4, 4)
    # What it let go is named, so that whoever merges need not guess.
    assert members | set(held["left"]) == written
    assert not members & set(held["left"])


def test_stopped_and_started_it_counts_all_calls_and_writes_those_in_between(start: Any, dataset: Path) -> None:
    runtime = start()
    call(runtime, 0, rows=1)
    assert len(kept(runtime, dataset)) == 1
    control.give(dataset, recording=False)
    until(lambda: not status(runtime)["recording"])
    for rows in (1, 2, 3):
        call(runtime, 0, rows=rows)
    assert len(kept(runtime, dataset)) == 1
    assert status(runtime)["waiting"] == 2
    control.give(dataset, recording=True)
    until(lambda: status(runtime)["recording"])
    runtime.writer.flush()  # a beat
    for rows in (1, 2):
        call(runtime, 0, rows=rows)
    call(runtime, 0, rows=4)
    assert {trace.workload.axes["batch_size"] for trace in kept(runtime, dataset)} == {1, 2, 4}
    (counts,) = load_counts(dataset).values()
    assert counts == {'{"batch_size":1}': 3, '{"batch_size":2}': 2, '{"batch_size":3}': 1, '{"batch_size":4}': 1}


def test_a_stop_that_is_there_before_the_process_holds_from_its_first_call(start: Any, dataset: Path) -> None:
    control.give(dataset, recording=False)
    runtime = start(keep="all")
    call(runtime, 0)
    assert kept(runtime, dataset) == []


def test_it_stops_by_itself_after_a_number_of_workloads(start: Any, dataset: Path) -> None:
    control.give(dataset, recording=True, workloads=3)
    runtime = start(keep="all")
    for number in range(10):
        call(runtime, number)
    assert len(kept(runtime, dataset)) == 3
    assert status(runtime)["over"] == "workloads"
    assert not status(runtime)["recording"]


def test_past_the_quota_calls_are_only_counted_and_one_line_is_logged(start: Any, dataset: Path, log: Any) -> None:
    runtime = start(keep="all", limit=2)
    for number in range(2):
        call(runtime, number)
    assert len(kept(runtime, dataset)) == 2
    for number in range(2, 10):
        call(runtime, number)
    assert len(kept(runtime, dataset)) == 2
    plan = status(runtime)["policy"]["definitions"][SAMPLING.name]
    assert plan["skipped"]["workload_quota"] >= 1
    assert runtime.sites[0].entries[1].calls == 10
    assert sum("workloads_per_definition" in line for line in log.warnings) == 1


def test_what_a_full_writer_refused_is_written_later(start: Any, dataset: Path, monkeypatch: Any) -> None:
    runtime = start()
    monkeypatch.setattr(runtime.writer, "submit", lambda record: False)
    call(runtime, 0)
    monkeypatch.undo()
    assert status(runtime)["waiting"] == 1
    time.sleep(0.06)
    runtime.writer.flush()  # a beat
    call(runtime, 1)
    assert len(kept(runtime, dataset)) == 1
    assert status(runtime)["waiting"] == 0


def test_off_writes_nothing_and_counts(start: Any, dataset: Path) -> None:
    runtime = start(keep="off")
    call(runtime, 0)
    assert kept(runtime, dataset) == []
    assert status(runtime)["policy"]["definitions"][SAMPLING.name]["skipped"] == {"off": 1}


def test_without_tracing_no_order_starts_it(start: Any, dataset: Path) -> None:
    control.give(dataset, recording=True)
    runtime = start(tracing=False)
    call(runtime, 0)
    assert kept(runtime, dataset) == []
    assert "recording" not in status(runtime)
