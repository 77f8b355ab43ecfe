"""Probation on a GPU: streams, graphs and device clocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatch.trial_cases import GOOD, ROWS, D, doing, proven, reasons, silu_run
from proven import silu

from fib_plugin.dispatch.site import Original, Site

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

Make = Callable[..., Any]


def slow_original(x: torch.Tensor) -> torch.Tensor:
    """Right, and kept slow by work that nothing uses."""
    torch.randn(2048, 2048, device=x.device).matmul(torch.ones(2048, 2048, device=x.device))
    return silu_run(x)


def site_of(runtime: Any) -> Site:
    return runtime.site("test.op", silu(D), original=Original(slow_original))


def rows(count: int = ROWS) -> torch.Tensor:
    return torch.randn(count, 2 * D, device="cuda")


def call(site: Site, count: int = ROWS, times: int = 3) -> list[Any]:
    return [site.attempt(count, (rows(count),)) for _ in range(times)]


def test_a_right_and_fast_solution_answers_after_three_compared_calls(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    site = site_of(make_runtime(probation=True))
    assert call(site) == [None] * 3
    x = rows()
    torch.testing.assert_close(site.attempt(ROWS, (x,)), silu_run(x))


BAD = {
    "changes the stream": (doing("torch.cuda.set_stream(torch.cuda.Stream())"), "current stream"),
    "draws on the device": (doing("torch.rand(1, device='cuda')"), "CUDA random state"),
    "sets TF32": (doing("torch.backends.cuda.matmul.allow_tf32 = True"), "TF32 mode"),
    "writes to its input": (doing("x[0, 0] = 7.0", "after"), "wrote to its input x"),
    "keeps its input": (doing("_kept.append(x)"), "keeps a reference to its input x"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_harmful_solution_never_answers_and_leaves_no_trace(what: str, make_runtime: Make, dataset: Path) -> None:
    source, word = BAD[what]
    proven(dataset, source)
    runtime = make_runtime(probation=True)
    stream, random = torch.cuda.current_stream(), torch.cuda.get_rng_state()
    x = torch.full((ROWS, 2 * D), 2.0, device="cuda")
    site = site_of(runtime)
    assert [site.attempt(ROWS, (x,)) for _ in range(4)] == [None] * 4
    assert word in runtime.guard.out["fast"].detail
    assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert bool((x == 2.0).all())
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_solution_that_leaves_work_on_a_stream_of_its_own_is_wrong(make_runtime: Make, dataset: Path) -> None:
    aside = "with torch.cuda.stream(torch.cuda.Stream()): torch.cuda._sleep(200_000_000); out = out + 0 * out.sum()"
    proven(dataset, doing(f"out = torch.empty_like(out)\n    {aside}", "after"))
    runtime = make_runtime(probation=True)
    assert call(site_of(runtime), times=2) == [None, None]
    assert runtime.guard.out["fast"].reason in ("wrong_here", "harmful")


def test_a_graph_captured_before_probation_ended_holds_the_engines_op(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    call(site, times=1)
    x, answers = rows(), []
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        answers.append(site.attempt(ROWS, (x,)))
        answers.append(site.attempt(2 * ROWS, (torch.cat([x, x]),)))
    assert answers == [None, None]
    assert reasons(runtime) == {"probation": 1, "capturing": 2}
    assert call(site, times=3)[2] is not None, "eager calls afterwards go on with probation"


def test_a_graph_captured_after_it_replays_the_solution(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True, nan_check_every=1, recheck_every=1)
    site = site_of(runtime)
    call(site)
    x = rows()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        out = site.attempt(ROWS, (x,))
    assert out is not None, "checks that would wait for the device are left out of the capture"
    x.copy_(rows())
    graph.replay()
    torch.testing.assert_close(out, silu_run(x))


def test_probation_after_a_capture_finds_a_slow_solution_slow(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("torch.ones(8192, 8192, device='cuda').matmul(torch.ones(8192, 8192, device='cuda'))"))
    runtime = make_runtime(probation=True)
    assert call(site_of(runtime), times=4) == [None] * 4
    assert reasons(runtime)["slower_here"] == 1


def test_a_solution_that_waits_for_the_device_is_refused_and_graphs_are_captured_afterwards(
    make_runtime: Make, dataset: Path
) -> None:
    proven(dataset, doing("x.sum().item()"))
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    assert call(site, times=4) == [None] * 4
    assert reasons(runtime)["not_capturable"] == 1
    assert "fast" not in runtime.guard.out, "an engine without graphs can use it"
    x, graph = rows(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        doubled = x * 2
    x.fill_(3.0)
    graph.replay()
    assert bool((doubled == 6.0).all())


def test_a_gpu_is_timed_on_the_weights_of_as_many_layers_as_its_cache_cannot_hold() -> None:
    from fib_plugin.dispatch.race import Race

    device = torch.device("cuda")
    race = Race([1])
    held = torch.cuda.get_device_properties(device).L2_cache_size
    x = torch.zeros(1, device=device)
    weights = [torch.empty(held, dtype=torch.uint8, device=device) for _ in range(3)]
    cold = []
    for weight in (*weights[:2], weights[1], weights[2]):
        race.meet((x, weight))
        cold.append(race.cold(device))
    assert cold == [False, False, False, True]


def test_a_race_in_graphs_tells_the_quicker_of_two() -> None:
    from fib_plugin.dispatch.race import Race

    device = torch.device("cuda")
    race, x = Race([]), torch.ones(1 << 24, device=device)
    same = (lambda args: args, lambda args: args)
    assert race.in_graphs(lambda x: x + 1, lambda x: (x + 1) * 2, (x,), same, device)
    assert max(race.solution_ns) < min(race.original_ns)
    assert len(race.solution_ns) == len(race.original_ns) >= 5
