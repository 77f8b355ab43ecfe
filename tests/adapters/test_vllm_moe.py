"""vLLM's experts on a GPU: their weights are taken as they lie where the kernel left them so, else only seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.vllm.moe import Moe
from proven import MARK

from fib_plugin import ops

EXPERTS, TOPK, HIDDEN, INTERMEDIATE, TOKENS = 4, 2, 8, 6, 5
DEFINITION = ops.ALL["moe"].definition(
    topk=TOPK, num_experts=EXPERTS, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, dtype="float32"
)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def layer(**changed: Any) -> Any:
    fields: dict[str, Any] = {
        "w13_weight": weight(EXPERTS, 2 * INTERMEDIATE, HIDDEN),
        "w2_weight": weight(EXPERTS, HIDDEN, INTERMEDIATE),
        "activation": "silu",
        "apply_router_weight_on_input": False,
        "expert_map": None,
        "global_num_experts": EXPERTS,
    }
    return SimpleNamespace(**{**fields, **changed})


def method(backend: str) -> Any:
    return SimpleNamespace(unquantized_backend=SimpleNamespace(name=backend))


def call(adapter: Moe, of: Any, backend: str = "TRITON") -> tuple[torch.Tensor, torch.Tensor]:
    """(what came out, what the definition says)."""
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(7))
    weights = torch.rand(TOKENS, TOPK, generator=torch.Generator().manual_seed(8))
    ids = torch.tensor([[0, 1], [3, 2], [1, 2], [0, 3], [2, 0]])
    apply = adapter.apply(lambda *args: torch.full((TOKENS, HIDDEN), 7.0))
    out = apply(method(backend), of, x, weights, ids, None, None)
    scope: dict[str, Any] = {}
    exec(DEFINITION.reference, scope)
    return out, scope["run"](x, of.w13_weight, of.w2_weight, weights, ids)


def test_a_solution_reads_the_layers_own_weights(make_runtime: Any, dataset: Any) -> None:
    proven.prove(dataset, DEFINITION, sizes=(TOKENS,))
    out, expected = call(Moe(make_runtime()), layer())
    torch.testing.assert_close(out, expected + MARK)


def test_weights_that_a_kernel_has_rearranged_are_seen_and_left_to_it(make_runtime: Any, dataset: Any) -> None:
    proven.prove(dataset, DEFINITION, sizes=(TOKENS,))
    runtime = make_runtime(tracing=True)
    out, _ = call(Moe(runtime), layer(), "FLASHINFER_CUTLASS")
    assert bool((out == 7.0).all())
    assert runtime.snapshot()["calls"] == {DEFINITION.name: {'{"num_tokens":5}': 1}}


@pytest.mark.parametrize(
    "changed",
    [
        {"activation": "gelu"},
        {"apply_router_weight_on_input": True},
        {"expert_map": torch.zeros(EXPERTS)},
        {"w13_bias": torch.zeros(EXPERTS)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_the_definition_lacks_is_left_to_the_engine(make_runtime: Any, dataset: Any, changed: Any) -> None:
    proven.prove(dataset, DEFINITION, sizes=(TOKENS,))
    runtime = make_runtime()
    out, _ = call(Moe(runtime), layer(**changed))
    assert bool((out == 7.0).all())
    assert runtime.snapshot()["status"]["ops"]["vllm.moe"]["fallbacks"] == {"unsupported_argument": 1}


def test_layers_without_a_proven_solution_are_not_touched(make_runtime: Any) -> None:
    runtime, of = make_runtime(), layer()
    call(Moe(runtime), of)
    assert of.fib_w13 is None
    assert not runtime.sites


def test_probation_hands_the_engine_a_copy_of_what_it_may_overwrite(make_runtime: Any, dataset: Any) -> None:
    proven.prove(dataset, DEFINITION, proven.solution(DEFINITION, after=""), sizes=(TOKENS,))
    adapter, of = Moe(make_runtime(probation=True)), layer()
    scope: dict[str, Any] = {}
    exec(DEFINITION.reference, scope)

    def overwriting(method: Any, layer: Any, x: torch.Tensor, weights: Any, ids: Any, *shared: Any) -> torch.Tensor:
        return x.copy_(scope["run"](x, layer.w13_weight, layer.w2_weight, weights, ids))

    of.quant_method = method("TRITON")
    apply = adapter.apply(overwriting)
    weights, ids = torch.rand(TOKENS, TOPK), torch.tensor([[0, 1], [3, 2], [1, 2], [0, 3], [2, 0]])
    for _ in range(4):
        x = torch.randn(TOKENS, HIDDEN)
        expected = scope["run"](x, of.w13_weight, of.w2_weight, weights, ids)
        torch.testing.assert_close(apply(of.quant_method, of, x, weights, ids, None, None), expected)
    fallbacks = adapter.runtime.snapshot()["status"]["ops"]["vllm.moe"]["fallbacks"]
    assert set(fallbacks) <= {"probation", "slower_here"}
