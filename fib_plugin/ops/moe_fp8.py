"""Mixture of experts after routing with fp8 (e4m3) weights in blocks: activations are quantized before each product.

Formula of the experts as in moe.py; blocks and groups as in DeepSeek-V3 (arXiv 2412.19437, section 3.3).
"""

from __future__ import annotations

from fib_plugin.ops.gemm_fp8 import BLOCK, BLOCKWISE, QUANTIZE, blocks
from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition

_RUN = """

@torch.no_grad()
def run(hidden_states, w13, w13_block_scales, w2, w2_block_scales, topk_weights, topk_ids):
    x = rounded(hidden_states.to(torch.float32))
    output = torch.zeros_like(x)
    for expert in topk_ids.unique().tolist():
        tokens, slots = (topk_ids == expert).nonzero(as_tuple=True)
        gate, up = (x[tokens] @ dequantized(w13[expert], w13_block_scales[expert]).T).chunk(2, dim=-1)
        act = rounded(gate * torch.sigmoid(gate) * up)
        down = act @ dequantized(w2[expert], w2_block_scales[expert]).T
        output.index_add_(0, tokens, down * topk_weights[tokens, slots, None].to(torch.float32))
    return output.to(hidden_states.dtype)
"""


def moe_fp8_block_scale(
    topk: int,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    dtype: str = "bfloat16",
    ue8m0: bool = False,
) -> Definition:
    """SwiGLU experts: ``sum_j topk_weights[t, j] * (w2[e] @ (silu(gate) * up))`` with e = topk_ids[t, j].

    hidden_states [num_tokens, hidden_size] in ``dtype``; w13 [num_experts, 2 * intermediate_size, hidden_size] with the
    gate rows first and w2 [num_experts, hidden_size, intermediate_size] in fp8, their scales float32 by blocks of 128
    by 128; topk_weights float32 and topk_ids int32, both [num_tokens, topk]. The inputs of both products are quantized
    in groups of 128 columns.

    Args:
        ue8m0: scales of activations are rounded up to powers of two.
    """
    e, h, i = num_experts, hidden_size, intermediate_size
    fp8 = "float8_e4m3fn"
    return make_definition(
        f"moe_fp8_block_scale{'_ue8m0' if ue8m0 else ''}{dtype_part(dtype)}_topk{topk}_e{e}_h{h}_i{i}",
        "moe",
        {
            "num_tokens": None,
            "topk": topk,
            "num_experts": e,
            "hidden_size": h,
            "two_i": 2 * i,
            "intermediate_size": i,
            "hidden_blocks": blocks(h),
            "two_i_blocks": blocks(2 * i),
            "intermediate_blocks": blocks(i),
        },
        {
            "hidden_states": (["num_tokens", "hidden_size"], dtype),
            "w13": (["num_experts", "two_i", "hidden_size"], fp8),
            "w13_block_scales": (["num_experts", "two_i_blocks", "hidden_blocks"], "float32"),
            "w2": (["num_experts", "hidden_size", "intermediate_size"], fp8),
            "w2_block_scales": (["num_experts", "hidden_blocks", "intermediate_blocks"], "float32"),
            "topk_weights": (["num_tokens", "topk"], "float32"),
            "topk_ids": (["num_tokens", "topk"], "int32"),
        },
        {"output": (["num_tokens", "hidden_size"], dtype)},
        QUANTIZE.format(ue8m0=ue8m0) + BLOCKWISE.format(block=BLOCK) + _RUN,
        f"SwiGLU mixture of experts after routing, weights in fp8 e4m3 with a scale for each block of 128 by 128: top "
        f"{topk} of {e}, hidden size {h}, intermediate size {i}"
        + (", scales of activations powers of two." if ue8m0 else "."),
    )


SPECS = (
    OpSpec(
        family="moe_fp8_block_scale",
        op_type="moe",
        key_axes=("num_tokens",),
        inputs=("hidden_states", "w13", "w13_block_scales", "w2", "w2_block_scales", "topk_weights", "topk_ids"),
        make=moe_fp8_block_scale,
        structural=("topk_weights", "topk_ids"),
    ),
)
