"""FlashInfer's experts on a stand-in: seen with the definition's shapes, never substituted, declined if need be."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest
import torch
from fib_plugin.adapters.flashinfer.moe import Moe

from fib_plugin import ops

TOKENS, EXPERTS, HIDDEN, WIDTH, TOPK = 5, 4, 8, 6, 2
DEFINITION = ops.ALL["moe"].definition(
    topk=TOPK, num_experts=EXPERTS, hidden_size=HIDDEN, intermediate_size=WIDTH, dtype="bfloat16"
)
WEIGHTS = (
    torch.ones(EXPERTS, 2 * WIDTH, HIDDEN, dtype=torch.bfloat16),
    torch.ones(EXPERTS, HIDDEN, WIDTH, dtype=torch.bfloat16),
)


class ActivationType(IntEnum):
    Swiglu = 3
    Geglu = 4


def call(adapter: Moe, *rest: Any, weights: tuple[torch.Tensor, ...] = WEIGHTS, **more: Any) -> Any:
    x = torch.ones(TOKENS, HIDDEN, dtype=torch.bfloat16)
    ids, scales = torch.zeros(TOKENS, TOPK, dtype=torch.int32), torch.full((TOKENS, TOPK), 0.5)
    return adapter.cutlass_fused_moe(lambda *args, **kwargs: "the library")(
        x, ids, scales, *weights, torch.bfloat16, *rest, **more
    )


def test_a_call_is_written_down_with_its_routing(make_runtime: Any, dataset: Any) -> None:
    from fib_plugin.dataset import TraceSet

    runtime = make_runtime(tracing=True)
    adapter = Moe(runtime)
    for _ in range(2):
        assert call(adapter, [], tune_max_num_tokens=64, activation_type=ActivationType.Swiglu) == "the library"
    (site,) = runtime.sites
    assert site.definition.name == DEFINITION.name
    assert site.observe_only
    assert sum(entry.calls for entry in site.all_entries()) == 2
    assert runtime.writer.flush()
    (trace,) = TraceSet.from_path(dataset).workloads[DEFINITION.name]
    assert trace.workload.axes == {"num_tokens": TOKENS}
    assert trace.workload.inputs["topk_ids"].type == "safetensors"


def test_layers_are_told_apart_and_share_a_site(make_runtime: Any) -> None:
    runtime = make_runtime(tracing=True)
    adapter = Moe(runtime)
    call(adapter, [])
    call(adapter, None, weights=tuple(weight.clone() for weight in WEIGHTS))
    assert len(runtime.sites) == 1


@pytest.mark.parametrize(
    ("rest", "more"),
    [
        (([torch.ones(1)],), {}),
        ((), {"quant_scales": [torch.ones(1)]}),
        (([], torch.ones(EXPERTS)), {}),
        (([],), {"fc1_expert_biases": torch.ones(EXPERTS)}),
        (([],), {"activation_type": ActivationType.Geglu}),
        (([],), {"ep_size": 2}),
        (([],), {"backend": "cake"}),
        (([],), {"min_latency_mode": True}),
        (([],), {"use_w4_group_scaling": True}),
        (([],), {"weights": (WEIGHTS[0][:, :WIDTH], WEIGHTS[1])}),
        (([],), {"weights": (WEIGHTS[0].float(), WEIGHTS[1])}),
    ],
    ids=lambda given: ",".join(given) if isinstance(given, dict) else str(len(given)),
)
def test_what_the_definition_lacks_is_counted(make_runtime: Any, rest: tuple[Any, ...], more: dict[str, Any]) -> None:
    runtime = make_runtime(tracing=True)
    assert call(Moe(runtime), *rest, **more) == "the library"
    assert not runtime.sites
    assert runtime.declined["flashinfer.moe"] == {"unsupported_argument": 1}


def test_without_tracing_nothing_is_looked_at(make_runtime: Any) -> None:
    runtime = make_runtime()
    assert call(Moe(runtime), [], ep_size=2) == "the library"
    assert not runtime.declined
