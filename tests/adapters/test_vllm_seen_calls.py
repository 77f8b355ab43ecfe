"""vLLM's eager hooks where a call is known: the short way asks the same site and answers as the first call did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from live_calls import FP32, ROWS, SHAPES, Make, normal, shapes
from proven import MARK

from fib_plugin import ops

GEMM = ops.ALL["gemm"].definition(n=5, k=4, **FP32)


def stock(layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> str:
    return "stock"


@SHAPES
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_a_linear_layers_every_call_gets_the_solution_and_its_bias(
    proven_runtime: Any, shape: str, biased: bool
) -> None:
    from fib_plugin.adapters.vllm.gemm import Gemm

    hook = Gemm(proven_runtime(GEMM)).choose(lambda: stock)()
    layer, weight, bias = torch.nn.Module(), normal(5, 4), normal(5) if biased else None
    for _ in range(3):
        x = shapes(4)[shape]
        torch.testing.assert_close(hook(layer, x, weight, bias), F.linear(x, weight, bias) + MARK)


def test_a_linear_layers_call_of_another_dtype_or_at_rest_is_the_engines(proven_runtime: Any) -> None:
    from fib_plugin.adapters.vllm.gemm import Gemm

    gemm = Gemm(proven_runtime(GEMM))
    hook, layer, weight, x = gemm.choose(lambda: stock)(), torch.nn.Module(), normal(5, 4), normal(ROWS, 4)
    hook(layer, x, weight)
    assert isinstance(hook(layer, x, weight), torch.Tensor)
    assert hook(layer, x.to(torch.bfloat16), weight) == "stock"
    gemm.live = False
    assert hook(layer, x, weight) == "stock"


def test_every_call_is_counted_at_one_site(make_runtime: Make) -> None:
    from fib_plugin.adapters.vllm.activation import Activation
    from fib_plugin.adapters.vllm.gemm import Gemm
    from fib_plugin.adapters.vllm.rope import Rope

    runtime = make_runtime(apply=False, tracing=True)
    gemm, silu, rotate = Gemm(runtime), Activation(runtime), Rope(runtime)
    rope = torch.nn.Module()
    rope.register_buffer("cos_sin_cache", normal(32, 8))
    rope.head_size, rope.is_neox_style = 8, True  # type: ignore[assignment]
    layer, weight = torch.nn.Module(), normal(5, 4)
    linear, act = gemm.choose(lambda: stock)(), silu.native(lambda x: x)
    turn = rotate.in_place(lambda rope, positions, query, key: (query, key))
    for _ in range(4):
        linear(layer, normal(2, 4), weight)
        act(normal(2, 16))
        turn(rope, torch.arange(2), normal(2, 32), normal(2, 16))
    counts = {site.definition.op_type: [entry.calls for entry in site.all_entries()] for site in runtime.sites}
    assert counts == {"gemm": [4], "activation": [4], "rope": [4]}


def test_a_rotary_cache_of_another_dtype_is_asked_of_the_engine(make_runtime: Make) -> None:
    from fib_plugin.adapters.vllm.rope import Rope

    rotate = Rope(make_runtime(apply=False, tracing=True))
    asked: list[torch.dtype] = []

    def match(query: torch.Tensor) -> torch.Tensor:
        asked.append(query.dtype)
        return normal(32, 8).to(query.dtype)

    rope = SimpleNamespace(
        _buffers={"cos_sin_cache": normal(32, 8)}, head_size=8, is_neox_style=True, _match_cos_sin_cache_dtype=match
    )
    turn = rotate.in_place(lambda rope, positions, query, key: (query, key))
    turn(rope, torch.arange(2), normal(2, 32).to(torch.bfloat16), normal(2, 16).to(torch.bfloat16))
    turn(rope, torch.arange(2), normal(2, 32), normal(2, 16))
    assert asked == [torch.bfloat16]
