"""Counts of CUDA graphs: a capture runs nothing, each replay runs everything that the graph holds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatch.trial_cases import GOOD, ROWS, D, call, proven, site_of
from proven import MARKED

from fib_plugin import ops
from fib_plugin.dataset import TraceSet

Make = Callable[..., Any]


class Graph:
    """Stands for torch.cuda.CUDAGraph, which this host need not have."""


@contextmanager
def captured(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    graph = Graph()
    runtime.graphs.begin(graph)
    with monkeypatch.context() as patch:
        for module in ("trial", "watch"):
            patch.setattr(f"fib_plugin.dispatch.{module}.capturing", lambda args: True)
        patch.setattr("fib_plugin.runtime.capturing", lambda args: True)
        yield graph
    runtime.graphs.end()


def line(runtime: Any) -> dict[str, Any]:
    return runtime.snapshot()["status"]["ops"]["test.op"]


def by_rows(runtime: Any) -> dict[int, int]:
    import json

    from proven import silu

    counts = runtime.snapshot()["calls"][silu(D).name]
    return {json.loads(axes)["batch_size"]: calls for axes, calls in counts.items()}


def test_a_capture_counts_nothing_and_each_replay_counts_what_the_graph_holds(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime(apply=False, tracing=True)
    site = site_of(runtime)
    call(site, times=2)
    with captured(runtime, monkeypatch) as graph:
        call(site, times=3)
        call(site, 2 * ROWS, 1)
    assert by_rows(runtime) == {ROWS: 2, 2 * ROWS: 0}
    for _ in range(10):
        runtime.graphs.replayed(graph)
    assert by_rows(runtime) == {ROWS: 32, 2 * ROWS: 10}
    assert line(runtime)["calls"] == 42


def test_counts_of_a_graph_run_equal_those_of_an_eager_run(
    make_runtime: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ROWS, 2 * ROWS, ROWS, ROWS, 2 * ROWS]
    eager = make_runtime(apply=False, tracing=True)
    for count in requests:
        call(site_of(eager), count, 4)
    graphed = make_runtime(apply=False, tracing=True)
    graphs = {}
    for count in (ROWS, 2 * ROWS):
        with captured(graphed, monkeypatch) as graphs[count]:
            call(site_of(graphed), count, 4)
    for count in requests:
        graphed.graphs.replayed(graphs[count])
    assert by_rows(eager) == by_rows(graphed)


def test_a_solution_that_a_graph_holds_is_counted_as_substituted_by_replays(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(dataset, MARKED)
    runtime = make_runtime(tracing=True)
    site = site_of(runtime)
    call(site, times=1)
    with captured(runtime, monkeypatch) as graph:
        assert call(site, times=2) != [None, None]
    for _ in range(5):
        runtime.graphs.replayed(graph)
    assert line(runtime)["substituted"] == 11
    assert line(runtime)["fallbacks"] == {}


def test_a_solution_that_was_not_armed_by_then_is_not_in_the_graph_and_that_is_counted(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True, tracing=True)
    site = site_of(runtime)
    call(site, times=1)
    with captured(runtime, monkeypatch) as graph:
        assert call(site, times=2) == [None, None]
    for _ in range(5):
        runtime.graphs.replayed(graph)
    assert line(runtime)["fallbacks"] == {"probation": 1, "capturing": 10}
    call(site, times=2)
    assert call(site, times=1) != [None], "eager calls go on with probation"
    runtime.graphs.replayed(graph)
    found = line(runtime)
    assert found["calls"] == 1 + 10 + 2 + 1 + 2
    assert found["substituted"] == 1


def test_a_size_that_only_graphs_met_is_looked_at_by_a_later_eager_call(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(dataset, MARKED)
    runtime = make_runtime()
    site = site_of(runtime)
    with captured(runtime, monkeypatch):
        assert call(site, times=1) == [None]
    assert call(site, times=1) != [None]


def test_another_threads_calls_during_a_capture_are_its_own(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime(apply=False, tracing=True)
    site = site_of(runtime)
    call(site, times=1)
    graph = Graph()
    runtime.graphs.begin(graph)
    other = threading.Thread(target=lambda: (call(site, times=2), call(site, 8 * ROWS, 3)))
    other.start()
    other.join()
    call(site, times=1)
    runtime.graphs.end()
    runtime.graphs.replayed(graph)
    assert by_rows(runtime) == {ROWS: 1 + 2 + 1, 8 * ROWS: 3}


def test_counts_of_a_graph_that_is_gone_or_captured_anew_stay(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime(apply=False, tracing=True)
    site = site_of(runtime)
    with captured(runtime, monkeypatch) as graph:
        call(site, times=1)
    for _ in range(3):
        runtime.graphs.replayed(graph)
    runtime.graphs.begin(graph)
    call(site, 2 * ROWS, 1)
    runtime.graphs.end()
    runtime.graphs.replayed(graph)
    del graph
    gc.collect()
    assert by_rows(runtime) == {ROWS: 3, 2 * ROWS: 1}


def test_structural_inputs_are_read_again_after_replays(
    make_runtime: Make, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers that a graph reads hold dummies when it is captured, and real page lists when it is replayed."""
    decode = ops.ALL["gqa_paged_decode"].definition(
        num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=1, dtype="float32"
    )
    runtime = make_runtime(apply=False, tracing=True)
    site = runtime.site("test.op", decode)
    pool = torch.zeros(16, 1, 1, 8)
    indptr, indices = torch.tensor([0, 2, 4], dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    with captured(runtime, monkeypatch) as graph:
        site.attempt((2, 2), (torch.zeros(2, 2, 8), pool, pool, indptr, indices, 1.0))
    indices.copy_(torch.tensor([3, 1, 4, 1]))
    runtime.graphs.replayed(graph)
    runtime.close()
    (trace,) = TraceSet.from_path(dataset).workloads[decode.name]
    from safetensors.torch import load_file

    spec = trace.workload.inputs["kv_indices"]
    assert load_file(dataset / spec.path)[spec.tensor_key].tolist() == [3, 1, 4, 1]
