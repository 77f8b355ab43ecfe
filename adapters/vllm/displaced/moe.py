import torch
from vllm import _custom_ops

ISA = "amx" if torch.cpu._is_amx_tile_supported() else "vec"


def setup(hidden_states, w13, w2, topk_weights, topk_ids):
    # The engine packs the experts once, at load.
    packed = [_custom_ops.cpu_prepack_moe_weight(weight, ISA) for weight in (w13, w2)]

    def call():
        output = torch.empty_like(hidden_states)
        _custom_ops.cpu_fused_moe(
            output, hidden_states, *packed, None, None, topk_weights, topk_ids, "silu", ISA, False
        )
        return output

    return call


def run(*inputs):
    return setup(*inputs)()
