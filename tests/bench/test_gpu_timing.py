"""Timing on a real GPU: in CUDA graphs where they can be, and no way to gain by how a graph is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import solution, workload

from fib_plugin import ops
from fib_plugin.bench import BenchResult, displaced, run_bench, seating
from fib_plugin.bench.recorder import Recorder
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import Definition, EvaluationStatus, Solution

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(400),
]

SILU = ops.ALL["silu_and_mul"].definition(d=1024, dtype="bfloat16")
NORM = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=1024, eps=1e-5, dtype="bfloat16")
#: Its weight alone is 256 MB.
GEMM = ops.ALL["gemm"].definition(n=32768, k=4096, dtype="bfloat16")

FAST = """
import torch


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
"""
FAST_TOO = FAST + "\n# The same, under another hash.\n"

SYNCS = FAST.replace("    d = x", "    torch.cuda.synchronize()\n    d = x")

OWN_STREAM = """
import torch

side = torch.cuda.Stream()


def run(x):
    d = x.shape[-1] // 2
    here = torch.cuda.current_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        gate = torch.nn.functional.silu(x[:, :d])
    here.wait_stream(side)
    return gate * x[:, d:]
"""

#: What it returns, it computed while the graph was made; the graph holds next to nothing.
AHEAD = """
import torch

side = torch.cuda.Stream()
tick = torch.zeros(1, device="cuda")


def compute(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]


def run(x):
    here = torch.cuda.current_stream()
    capturing = torch.cuda.is_current_stream_capturing()
    if capturing:
        tick.add_(1)
    else:
        side.wait_stream(here)
    with torch.cuda.stream(side):  # beside the capture: it runs at once
        y = compute(x)
    if not capturing:
        here.wait_stream(side)
    return y
"""

ADD_NORM = """
import torch


def run(hidden_states, residual, weight):
    total = hidden_states + residual
    return torch.nn.functional.rms_norm(total, (total.shape[-1],), weight, 1e-5), total
"""

LINEAR = """
import torch


def run(A, B):
    return torch.nn.functional.linear(A, B)
"""


def on_gpu(name: str, source: str, definition: Definition, **options: Any) -> Solution:
    one = solution(name, source, definition, **options)
    return one.model_copy(update={"spec": one.spec.model_copy(update={"target_hardware": ["cuda"]})})


def bench(root: Path, cache: Path, definition: Definition, solutions: list[Solution], **options: Any) -> Any:
    """Results by name of the solution."""
    traces = TraceSet(root)
    traces.add_definition(definition)
    for one in solutions:
        traces.add_solution(one)
    axes = options.pop("axes")
    traces.add_workloads([workload("w", definition, **axes)])
    results = run_bench(traces, cache=cache, devices=["cuda"], timeout=120.0, **options)
    return {result.solution.name: result for result in results}


def said(result: BenchResult) -> str:
    return f"{result.status.value}: {result.log[:1500]}"


@pytest.fixture(scope="module")
def shipped() -> Iterator[None]:
    """What is called `op` counts as an adapter's own text: it runs in the trusted child, outside of the sandbox."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (displaced, seating):
            patch.setattr(module, "is_shipped", lambda one, definition: one.name == "op")
        yield


@pytest.fixture(scope="module")
def silu(tmp_path_factory: pytest.TempPathFactory, cache: Path, shipped: None) -> Any:
    """All solutions of one definition, in graphs."""
    solutions = [
        on_gpu("op", FAST_TOO, SILU, author="engine"),
        on_gpu("fast", FAST, SILU),
        on_gpu("syncs", SYNCS, SILU),
        on_gpu("own_stream", OWN_STREAM, SILU),
        on_gpu("ahead", AHEAD, SILU),
    ]
    found = bench(tmp_path_factory.mktemp("silu"), cache, SILU, solutions, axes={"batch_size": 16})
    # All that follows compares with it.
    assert found["op"].status is EvaluationStatus.PASSED, said(found["op"])
    return found


def test_an_op_that_only_says_that_it_is_the_engines_is_compared_with_too(tmp_path: Path, cache: Path) -> None:
    solutions = [on_gpu("op", FAST_TOO, SILU, author="engine"), on_gpu("fast", FAST, SILU)]
    found = bench(tmp_path, cache, SILU, solutions, axes={"batch_size": 16})
    assert found["op"].status is EvaluationStatus.PASSED, said(found["op"])
    assert found["fast"].status is EvaluationStatus.PASSED, said(found["fast"])
    assert found["fast"].measurement.baseline == "op"


def test_a_small_kernel_costs_less_in_a_graph_than_its_launch(silu: Any, tmp_path: Path, cache: Path) -> None:
    plain = bench(tmp_path, cache, SILU, [on_gpu("fast", FAST, SILU)], axes={"batch_size": 16}, graphs=False)["fast"]
    graph = silu["fast"]
    assert graph.status is plain.status is EvaluationStatus.PASSED, (said(graph), said(plain))
    assert (graph.measurement.timing, plain.measurement.timing) == ("graph", "plain")
    assert graph.measurement.solution_ms < 0.7 * plain.measurement.solution_ms


def test_the_same_kernels_are_neither_a_win_nor_a_loss(silu: Any) -> None:
    assert silu["fast"].status is EvaluationStatus.PASSED, said(silu["fast"])
    assert silu["fast"].measurement.baseline == "op"
    assert silu["fast"].measurement.ratio == pytest.approx(1.0, abs=0.05)


def test_a_solution_that_cannot_be_captured_has_both_sides_timed_by_plain_calls(silu: Any) -> None:
    result = silu["syncs"]
    assert result.status is EvaluationStatus.PASSED, said(result)
    assert result.measurement.timing == "plain"
    assert result.measurement.baseline_ms > 1.2 * silu["fast"].measurement.baseline_ms


def test_a_solution_with_a_stream_of_its_own_is_captured(silu: Any) -> None:
    result = silu["own_stream"]
    assert result.status is EvaluationStatus.PASSED, said(result)
    assert result.measurement.timing == "graph"


def test_what_was_computed_while_the_graph_was_made_is_wrong_when_it_is_replayed(silu: Any) -> None:
    result = silu["ahead"]
    assert result.status is EvaluationStatus.INCORRECT_NUMERICAL, said(result)
    assert result.log.startswith("[wrong_values] in a timed call"), said(result)


def test_an_op_whose_engine_works_in_place_is_timed_in_graphs(tmp_path: Path, cache: Path) -> None:
    result = bench(tmp_path, cache, NORM, [on_gpu("norm", ADD_NORM, NORM)], axes={"batch_size": 8})["norm"]
    assert result.status is EvaluationStatus.PASSED, said(result)
    assert result.measurement.timing == "graph"


def test_what_cupti_says_agrees_with_the_events(tmp_path: Path, cache: Path) -> None:
    found = bench(tmp_path, cache, SILU, [on_gpu("fast", FAST, SILU)], axes={"batch_size": 2048}, kernels=True)["fast"]
    assert found.status is EvaluationStatus.PASSED, said(found)
    measured = found.measurement
    assert measured.launches == 2.0, "silu and the product, eagerly"
    assert 0.3 * measured.solution_ms < measured.device_ms < 1.2 * measured.solution_ms


def test_the_gpus_state_is_on_record(silu: Any) -> None:
    conditions = silu["fast"].measurement.conditions
    pytest.importorskip("pynvml")
    assert conditions.mhz is not None
    assert conditions.mhz[0] > 100
    assert conditions.temperature_c > 10
    assert conditions.throttled == (), "an idle device that runs a few small kernels"


def test_large_inputs_that_change_are_no_time_of_the_solutions(tmp_path: Path, cache: Path) -> None:
    result = bench(tmp_path, cache, GEMM, [on_gpu("linear", LINEAR, GEMM)], axes={"M": 2})["linear"]
    assert result.status is EvaluationStatus.PASSED, said(result)
    assert result.measurement.solution_ms < 2.0


def test_a_replay_computes_on_what_the_inputs_are_by_then() -> None:
    sets = [[torch.full((64, 64), float(index), device="cuda")] for index in range(3)]
    one = Recorder()

    def call(x: torch.Tensor) -> torch.Tensor:
        return x @ x + 1

    for value in (3.0, 5.0):  # the second takes over the memory of the first
        assert one.record(call, sets, [0, 1, 2]) == ""
        sets[2][0].fill_(value)
        took, last = one.replay()
        assert torch.all(last == 64 * value * value + 1)
        assert 0 < took < 1e7


def test_a_failed_capture_leaves_the_device_as_it_was() -> None:
    x = torch.ones(8, device="cuda")
    one = Recorder()

    def waits(x: torch.Tensor) -> torch.Tensor:
        torch.cuda.synchronize()
        return x + 1

    def call(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    for _ in range(2):
        assert one.record(call, [[x]], [0, 0]) == ""
        assert one.record(waits, [[x]], [0]) != ""
        assert torch.equal(x + 1, torch.full_like(x, 2.0))
    assert one.record(call, [[x]], [0]) == ""
    assert torch.all(one.replay()[1] == 2.0)
