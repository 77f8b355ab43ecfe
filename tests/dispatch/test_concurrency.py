"""Dispatch under traffic: many threads, uninstalling in the middle, two engines in one process, a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_engine
from dispatch.trial_cases import GOOD, ROWS, D, doing, proven, silu_run, site_of, slow_original
from fib_plugin.adapters.live.activation import LiveActivation
from fib_plugin.adapters.live.gemm import LiveGemm
from proven import MARK, MARKED, prove, solution

from fib_plugin import ops, plugin, settings
from fib_plugin.adapter import Adapter, Target

Make = Callable[..., Any]


def together(work: Callable[[int], None], threads: int = 32) -> None:
    """Runs ``work`` in threads that start at once; the first error is raised here."""
    barrier, errors = threading.Barrier(threads), []

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]


def test_32_threads_on_a_site_in_probation_get_right_answers_and_lose_no_call(
    make_runtime: Make, dataset: Path
) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    answered = []

    def work(number: int) -> None:
        x = torch.full((ROWS, 2 * D), float(number))
        for _ in range(200):
            answer = site.attempt(ROWS, (x,))
            if answer is not None:
                torch.testing.assert_close(answer, silu_run(x))
                answered.append(1)

    together(work)
    line = runtime.snapshot()["status"]["ops"]["test.op"]
    assert line["calls"] == 32 * 200
    assert line["substituted"] == len(answered) > 0
    assert line["calls"] == line["substituted"] + sum(line["fallbacks"].values())


def test_32_threads_inside_a_solution_that_breaks_lose_no_call(make_runtime: Make, dataset: Path) -> None:
    proven(dataset, doing("if _calls[0] > 500: raise RuntimeError('enough')"))
    runtime = make_runtime(probation=False)
    site = site_of(runtime)
    answered = []

    def work(number: int) -> None:
        x = torch.randn(ROWS, 2 * D)
        answered.extend(1 for _ in range(100) if site.attempt(ROWS, (x,)) is not None)

    together(work)
    line = runtime.snapshot()["status"]["ops"]["test.op"]
    assert line["calls"] == 3200
    assert line["substituted"] == len(answered)
    assert line["fallbacks"] == {"solution_raised": 3200 - len(answered)}


class ToyActivation(Adapter):
    """silu_and_mul of the toy engine."""

    name = "toy.activation"
    engine = toy_engine.TOY
    families = ("silu_and_mul",)
    targets = (Target("toy.ops:silu_and_mul", "wrap", ">=1,<2", params=("x",)),)

    def __init__(self, runtime: Any) -> None:
        super().__init__(runtime)
        self.calls = LiveActivation(runtime, self.name, slow_original)

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
            out = self.calls.silu_and_mul(x) if self.live else None
            return original(x) if out is None else out

        return silu_and_mul


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    yield from toy_engine.engine(tmp_path / "site", monkeypatch)


def test_uninstalling_in_the_middle_of_traffic_harms_no_call(
    toy: Callable[[str], Any], adapters: Callable[..., None], dataset: Path
) -> None:
    proven(dataset, MARKED)
    module = toy("ops")
    stock = module.silu_and_mul
    adapters([ToyActivation])
    plugin.activate(settings.load(), apply=True, tracing=False)
    installed = module.silu_and_mul
    assert installed is not stock
    x = torch.randn(ROWS, 2 * D)
    right, marked, seen = stock(x), stock(x) + MARK, []
    stop = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            while len(seen) < 500:
                pass
            plugin.deactivate()
            stop.set()
            return
        # Half look the function up anew, as callers of the module do; half hold the old one, as instances do.
        while not stop.is_set():
            answer = module.silu_and_mul(x) if number % 2 else installed(x)
            is_marked = torch.allclose(answer, marked)
            assert is_marked or torch.allclose(answer, right)
            seen.append(is_marked)

    together(work, threads=8)
    assert any(seen), "nothing was ever substituted"
    assert module.silu_and_mul is stock
    torch.testing.assert_close(installed(x), right)


def test_two_engines_in_one_process_share_a_definition_and_keep_their_weights_apart(
    make_runtime: Make, dataset: Path
) -> None:
    gemm = ops.ALL["gemm"].definition(n=8, k=8, dtype="float32")
    prove(dataset, gemm, solution(gemm, after=MARKED), (2,))
    runtime = make_runtime()
    engines = [LiveGemm(runtime, "one.gemm"), LiveGemm(runtime, "other.gemm")]
    weights = [torch.randn(8, 8) for _ in engines]

    def work(number: int) -> None:
        live, weight = engines[number % 2], weights[number % 2]
        for _ in range(100):
            x = torch.randn(2, 8)
            torch.testing.assert_close(live.attempt(x, weight), x @ weight.T + MARK)

    together(work, threads=8)
    ops_seen = runtime.snapshot()["status"]["ops"]
    assert {name: line["substituted"] for name, line in ops_seen.items()} == {"one.gemm": 400, "other.gemm": 400}


def test_a_weight_that_is_replaced_in_place_is_seen(make_runtime: Make, dataset: Path) -> None:
    gemm = ops.ALL["gemm"].definition(n=8, k=8, dtype="float32")
    prove(dataset, gemm, solution(gemm, after=MARKED), (2,))
    live = LiveGemm(make_runtime(), "one.gemm")
    weight = torch.nn.Parameter(torch.randn(8, 8), requires_grad=False)
    x = torch.randn(2, 8)
    torch.testing.assert_close(live.attempt(x, weight), x @ weight.T + MARK)
    weight.data = torch.randn(4, 8)
    assert live.attempt(x, weight) is None, "another shape has another definition"
    weight.data = torch.randn(8, 8)
    torch.testing.assert_close(live.attempt(x, weight), x @ weight.T + MARK)


def test_a_slice_that_starts_where_a_weight_starts_is_another_weight(make_runtime: Make, dataset: Path) -> None:
    gemm = ops.ALL["gemm"].definition(n=8, k=8, dtype="float32")
    prove(dataset, gemm, solution(gemm, after=MARKED), (2,))
    live = LiveGemm(make_runtime(), "one.gemm")
    weight, x = torch.randn(8, 8), torch.randn(2, 8)
    assert live.attempt(x, weight) is not None
    assert live.attempt(x, weight[:4]) is None
    assert live.attempt(x, weight) is not None


def test_a_process_forked_in_the_middle_of_probation_goes_through_it_on_its_own(
    make_runtime: Make, dataset: Path
) -> None:
    proven(dataset, GOOD)
    runtime = make_runtime(probation=True)
    site = site_of(runtime)
    x = torch.randn(ROWS, 2 * D)
    site.attempt(ROWS, (x,))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answers = [site.attempt(ROWS, (x,)) is not None for _ in range(5)]
        calls = runtime.snapshot()["status"]["ops"]["test.op"]["calls"]
        os.write(write, f"{answers} {calls}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000).decode() == f"{[False, False, True, True, True]} 5"
    assert runtime.snapshot()["status"]["ops"]["test.op"]["calls"] == 1
    assert [site.attempt(ROWS, (x,)) is not None for _ in range(3)] == [False, False, True]
