import torch


def on_device(hidden_states, w13, w2, topk_weights, topk_ids):
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    # The engine may hand over the memory of its input; a measurement keeps its inputs.
    return lambda: fused_experts(hidden_states, w13, w2, topk_weights, topk_ids)


def on_host(hidden_states, w13, w2, topk_weights, topk_ids):
    from vllm import _custom_ops

    isa = "amx" if torch.cpu._is_amx_tile_supported() else "vec"
    # The engine packs the experts once, at load.
    packed = [_custom_ops.cpu_prepack_moe_weight(weight, isa) for weight in (w13, w2)]

    def call():
        output = torch.empty_like(hidden_states)
        _custom_ops.cpu_fused_moe(
            output, hidden_states, *packed, None, None, topk_weights, topk_ids, "silu", isa, False
        )
        return output

    return call


def setup(hidden_states, *rest):
    return (on_device if hidden_states.is_cuda else on_host)(hidden_states, *rest)


def run(*inputs):
    return setup(*inputs)()
