"""Live linear layers: rows keep their shape, weights are known by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fib_plugin.adapters.live.gemm import LiveGemm
from live_calls import FP32, ROWS, SHAPES, Make, normal, reasons, shapes
from proven import MARK

from fib_plugin import ops

GEMM = ops.ALL["gemm"].definition(n=5, k=4, **FP32)


@SHAPES
def test_gemm_keeps_the_shape_of_its_rows(proven_runtime: Any, shape: str) -> None:
    x, weight = shapes(4)[shape], normal(5, 4)
    out = LiveGemm(proven_runtime(GEMM), "toy.gemm").attempt(x, weight)
    torch.testing.assert_close(out, F.linear(x, weight) + MARK)


def test_gemm_without_a_proven_solution_leaves_the_call_to_the_engine(make_runtime: Make) -> None:
    runtime = make_runtime()
    assert LiveGemm(runtime, "toy.gemm").attempt(normal(2, 3, 4), normal(5, 4)) is None
    assert reasons(runtime) == {"no_definition": 1}


def test_gemm_resolves_a_weight_once(proven_runtime: Any) -> None:
    runtime = proven_runtime(GEMM)
    live, weight = LiveGemm(runtime, "toy.gemm"), normal(5, 4)
    asked: list[str] = []
    site = runtime.site
    runtime.site = lambda adapter, definition, **options: asked.append(adapter) or site(adapter, definition, **options)
    for _ in range(3):
        live.attempt(normal(ROWS, 4), weight.data)
    assert asked == ["toy.gemm"]


def test_gemm_knows_a_weight_only_with_rows_that_it_can_be_called_with(proven_runtime: Any) -> None:
    live, weight, x = LiveGemm(proven_runtime(GEMM), "toy.gemm"), normal(5, 4), normal(ROWS, 4)
    assert live.known_site(x, weight) is None
    live.attempt(x, weight)
    site = live.known_site(x, weight)
    assert site is not None
    assert site.definition.name == GEMM.name
    assert live.known_site(normal(2, 3, 4), weight) is None  # `attempt` makes rows of it
    assert live.known_site(x.to(torch.bfloat16), weight) is None
    assert live.known_site(normal(ROWS, 3), weight) is None
    assert live.known_site(x, weight.data) is None  # another object: whether it is the same memory is not known yet


def test_a_weight_that_was_given_other_memory_is_looked_up_again(proven_runtime: Any) -> None:
    live, weight, x = LiveGemm(proven_runtime(GEMM), "toy.gemm"), normal(5, 4), normal(ROWS, 4)
    live.attempt(x, weight)
    weight.data = normal(5, 4)
    assert live.known_site(x, weight) is None


def test_a_slice_of_a_weight_is_another_weight(proven_runtime: Any) -> None:
    """A slice may start at the address of the whole."""
    runtime = proven_runtime(GEMM, ops.ALL["gemm"].definition(n=2, k=4, **FP32))
    live, weight, x = LiveGemm(runtime, "toy.gemm"), normal(5, 4), normal(ROWS, 4)
    torch.testing.assert_close(live.attempt(x, weight), F.linear(x, weight) + MARK)
    torch.testing.assert_close(live.attempt(x, weight[:2]), F.linear(x, weight[:2]) + MARK)
    assert {site.definition.name for site in runtime.sites} == {"gemm_fp32_n5_k4", "gemm_fp32_n2_k4"}


def test_a_weight_at_the_address_of_a_dead_one_is_not_taken_for_it(proven_runtime: Any) -> None:
    live = LiveGemm(proven_runtime(GEMM), "toy.gemm")
    addresses = []
    for _ in range(20):
        weight = normal(5, 4)
        addresses.append(weight.data_ptr())
        live.attempt(normal(ROWS, 4), weight)
        del weight
    assert len(set(addresses)) == 20


def test_a_stand_in_is_observed_and_never_substituted(proven_runtime: Any, dataset: Path) -> None:
    runtime = proven_runtime(GEMM, tracing=True)
    stand_in = torch.empty(1).expand(5, 4)
    assert LiveGemm(runtime, "toy.gemm").attempt(normal(ROWS, 4), stand_in) is None
    assert runtime.snapshot()["calls"][GEMM.name] == {'{"M":6}': 1}


def test_a_stand_in_does_not_keep_a_real_weight_of_its_shape_from_its_solution(proven_runtime: Any) -> None:
    live = LiveGemm(proven_runtime(GEMM), "toy.gemm")
    live.attempt(normal(ROWS, 4), torch.empty(1).expand(5, 4))
    assert live.attempt(normal(ROWS, 4), normal(5, 4)) is not None


def test_gemm_wins_only_for_the_shape_and_dtype_that_is_proven(proven_runtime: Any) -> None:
    live = LiveGemm(proven_runtime(GEMM), "toy.gemm")
    assert live.wins(5, 4, torch.float32)
    assert not live.wins(5, 4, torch.bfloat16)
    assert not live.wins(4, 5, torch.float32)
    assert not live.wins(5, 4, torch.float64)
