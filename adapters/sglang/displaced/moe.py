from types import SimpleNamespace

from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
from sglang.srt.layers.moe.topk import StandardTopKOutput


def setup(hidden_states, w13, w2, topk_weights, topk_ids):
    routed = StandardTopKOutput(topk_weights, topk_ids, None)
    config = MoeRunnerConfig(
        num_experts=w13.shape[0],
        num_local_experts=w13.shape[0],
        hidden_size=w13.shape[2],
        intermediate_size_per_partition=w2.shape[2],
        top_k=topk_ids.shape[1],
        params_dtype=w13.dtype,
        inplace=False,
    )
    if hidden_states.is_cuda:
        from sglang.srt.layers.moe.fused_moe_triton import fused_experts

        return lambda: fused_experts(hidden_states, w13, w2, routed, config)
    from sglang.srt.layers.moe.fused_moe_native import moe_forward_native

    layer = SimpleNamespace(num_experts=w13.shape[0], w13_weight=w13, w2_weight=w2)
    return lambda: moe_forward_native(layer, hidden_states, routed, config)


def run(*inputs):
    return setup(*inputs)()
