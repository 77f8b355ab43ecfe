"""Runtime: every call is counted once, whatever becomes of it, in threads and forks too; new sizes are recorded."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proven
from proven import silu
from runtime_cases import Make, call, counts, raising, x

from fib_plugin.dataset import TraceSet, append_measurements
from fib_plugin.dispatch.site import Site
from fib_plugin.runtime import Runtime

# ---- counts ---------------------------------------------------------------------------------------------------------


def assert_adds_up(runtime: Runtime) -> None:
    snapshot = runtime.snapshot()
    for line in snapshot["status"]["ops"].values():
        assert line["calls"] == line["substituted"] + sum(line["fallbacks"].values())
    seen = sum(count for by_axes in snapshot["calls"].values() for count in by_axes.values())
    if runtime.tracing:
        assert seen == snapshot["status"]["capture"]["seen"]


def test_counts_add_up_over_substitutions_fallbacks_and_declines(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(2, 4))
    runtime = make_runtime(tracing=True)
    for rows in (2, 3, 4, 4, 64, 64, 64):
        call(runtime, rows)
    call(runtime, 4, silu(8).model_copy(update={"name": "unknown"}))
    for _ in range(5):
        runtime.decline("toy.silu")
    line = counts(runtime)
    assert line["calls"] == 13
    assert line["substituted"] == 4
    assert line["fallbacks"] == {"unmeasured_shape": 3, "internal_error": 1, "unsupported_argument": 5}
    assert line["definitions"][silu().name] == {
        "calls": 7,
        "substituted": 4,
        "fallbacks": {"unmeasured_shape": 3},
        "solution": "fast",
    }
    # A call that could not be looked at has no sizes to be counted under, but it was seen.
    assert runtime.snapshot()["status"]["capture"]["seen"] == 8


def test_calls_are_counted_by_definition_and_axes(make_runtime: Make) -> None:
    runtime = make_runtime(tracing=True, apply=False)
    for rows in (2, 2, 5):
        call(runtime, rows)
    by_axes = runtime.snapshot()["calls"][silu().name]
    assert {json.loads(key)["batch_size"]: count for key, count in by_axes.items()} == {2: 2, 5: 1}
    assert_adds_up(runtime)


def test_counts_add_up_when_a_solution_breaks_midway(make_runtime: Make, dataset: Path) -> None:
    after = "\n_ok = run\nleft = [5]\n\n\ndef run(x):\n    left[0] -= 1\n    assert left[0]\n    return _ok(x)\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after))
    runtime = make_runtime(tracing=True)
    for _ in range(9):
        call(runtime)
    assert counts(runtime)["substituted"] == 4
    assert counts(runtime)["fallbacks"] == {"solution_raised": 5}
    assert_adds_up(runtime)


def test_the_snapshot_is_json_and_says_what_is_switched_on(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(tracing=True, strict=True)
    call(runtime)
    status = json.loads(json.dumps(runtime.snapshot()["status"]))
    assert status["switches"] == {
        "apply": True,
        "tracing": True,
        "strict": True,
        "probation": False,
        "any_hardware": False,
    }
    assert status["version"] == 1


def test_a_note_is_kept_once(make_runtime: Make) -> None:
    runtime = make_runtime()
    runtime.note("one")
    runtime.note("one")
    assert runtime.snapshot()["status"]["notes"] == ["one"]


# ---- tracing --------------------------------------------------------------------------------------------------------


def test_each_new_size_is_recorded_once_into_an_empty_dataset(make_runtime: Make, dataset: Path) -> None:
    runtime = make_runtime(tracing=True, apply=False)
    for rows in (2, 2, 5, 2):
        call(runtime, rows)
    runtime.close()
    traces = TraceSet.from_path(dataset)
    assert traces.definitions[silu().name].reference == silu().reference
    assert [trace.workload.axes["batch_size"] for trace in traces.workloads[silu().name]] == [2, 5]


def test_nothing_is_recorded_when_tracing_is_off(make_runtime: Make, dataset: Path) -> None:
    runtime = make_runtime(tracing=False)
    call(runtime)
    runtime.close()
    assert not (dataset / "workloads").exists()
    assert not (dataset / "definitions").exists()


def test_a_dataset_that_cannot_be_written_costs_the_engine_nothing(make_runtime: Make, dataset: Path) -> None:
    dataset.write_text("a file where the folder should be")
    runtime = make_runtime(tracing=True)
    assert call(runtime) is None
    assert counts(runtime)["calls"] == 1


# ---- threads --------------------------------------------------------------------------------------------------------


def in_threads(site: Site, calls: int, rows: Callable[[int], int]) -> list[BaseException]:
    errors: list[BaseException] = []
    start = threading.Barrier(16)

    def serve(number: int) -> None:
        try:
            start.wait()
            for at in range(calls):
                size = rows(number + at)
                site.attempt(size, (x(size),))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_sixteen_threads_on_one_site_lose_no_call(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(1, 2, 3, 4))
    runtime = make_runtime(tracing=True)
    errors = in_threads(runtime.site("toy.silu", silu()), 50, lambda at: 1 + at % 12)
    assert errors == []
    line = counts(runtime)
    assert line["calls"] == 800
    assert line["substituted"] + line["fallbacks"]["unmeasured_shape"] == 800
    assert_adds_up(runtime)
    runtime.close()
    assert len(TraceSet.from_path(dataset).workloads[silu().name]) == 12


def test_sixteen_threads_inside_a_solution_that_breaks_lose_no_call(make_runtime: Make, dataset: Path) -> None:
    """Each thread is inside the solution when the first of them fails: every one of these calls is a fallback."""
    after = (
        "\nimport threading\nmet = threading.Barrier(16)\n\n\n"
        "def run(x):\n    met.wait(timeout=20)\n    raise RuntimeError('all together')\n"
    )
    proven.prove(dataset, silu(), proven.solution(silu(), after=after))
    runtime = make_runtime(tracing=True)
    errors = in_threads(runtime.site("toy.silu", silu()), 3, lambda at: 4)
    assert errors == []
    assert counts(runtime)["substituted"] == 0
    assert counts(runtime)["fallbacks"] == {"solution_raised": 48}
    assert_adds_up(runtime)


def test_a_solution_is_built_once_for_all_sizes_and_threads(make_runtime: Make, dataset: Path, tmp_path: Path) -> None:
    log = tmp_path / "built"
    after = f"\nwith open({str(log)!r}, 'a') as file:\n    file.write('built\\n')\n"
    proven.prove(dataset, silu(), proven.solution(silu(), after=after), sizes=(1, 2, 3, 4))
    runtime = make_runtime()
    in_threads(runtime.site("toy.silu", silu()), 4, lambda at: 1 + at % 4)
    assert log.read_text() == "built\n"


def test_a_new_measurement_of_the_same_workload_replaces_the_old(make_runtime: Make, dataset: Path) -> None:
    made = proven.prove(dataset, silu())
    slower = proven.measurement(made, {"batch_size": 4}, ratio_low=0.8)
    append_measurements(dataset, "activation", [slower])
    runtime = make_runtime()
    assert call(runtime) is None
    assert counts(runtime)["fallbacks"] == {"not_faster": 1}


# ---- graphs and forks -----------------------------------------------------------------------------------------------


def test_nothing_is_chosen_while_a_graph_is_captured_and_the_next_eager_call_is_looked_at(
    make_runtime: Make, dataset: Path, monkeypatch: Any
) -> None:
    proven.prove(dataset, silu())
    runtime = make_runtime(tracing=True)
    with monkeypatch.context() as context:
        context.setattr("fib_plugin.runtime.capturing", lambda inputs: True)
        assert call(runtime) is None
    assert counts(runtime)["fallbacks"] == {"capturing": 1}
    assert call(runtime) is not None
    assert counts(runtime)["calls"] == 2


def test_a_forked_process_counts_its_own_calls(make_runtime: Make, dataset: Path) -> None:
    proven.prove(dataset, silu(), sizes=(1, 2, 4))
    runtime = make_runtime()
    for _ in range(3):
        call(runtime)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call(runtime)
            line = counts(runtime)
            os.write(writing, f"{line['calls']} {line['substituted']}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"1 1"
    os.close(reading)
    assert counts(runtime)["calls"] == 3


def test_a_process_that_is_forked_while_a_graph_is_captured_counts_its_own_calls(make_runtime: Make) -> None:
    class Graph:
        pass

    runtime, graph = make_runtime(apply=False, tracing=True), Graph()
    call(runtime, rows=2)
    runtime.graphs.begin(graph)
    call(runtime, rows=4)  # a size that only the graph meets
    runtime._forked()
    runtime.graphs.end()
    assert set(runtime.snapshot()["calls"][silu().name].values()) == {0}


def test_a_fork_during_a_failure_does_not_block_the_child(make_runtime: Make, dataset: Path) -> None:
    raising(dataset)
    runtime = make_runtime()
    reading, writing = os.pipe()
    with runtime.guard._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                os.write(writing, str(call(runtime)).encode())
            finally:
                os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"None"
    os.close(reading)
