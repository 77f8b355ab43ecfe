from sglang.srt.layers.moe.fused_moe_triton import fused_experts
from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
from sglang.srt.layers.moe.topk import StandardTopKOutput


def setup(hidden_states, w13, w13_block_scales, w2, w2_block_scales, topk_weights, topk_ids):
    routed = StandardTopKOutput(topk_weights, topk_ids, None)
    config = MoeRunnerConfig(
        num_experts=w13.shape[0],
        num_local_experts=w13.shape[0],
        hidden_size=w13.shape[2],
        intermediate_size_per_partition=w2.shape[2],
        top_k=topk_ids.shape[1],
        params_dtype=hidden_states.dtype,
        inplace=False,
    )
    scales = {"w1_scale": w13_block_scales, "w2_scale": w2_block_scales, "block_shape": [128, 128]}
    return lambda: fused_experts(hidden_states, w13, w2, routed, config, use_fp8_w8a8=True, **scales)


def run(*inputs):
    return setup(*inputs)()
