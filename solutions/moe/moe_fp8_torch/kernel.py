"""SwiGLU experts one after the other, weights in fp8: each is dequantized when it has tokens, and only then."""

import torch
from fp8_blocks import dequantized, rounded
from torch.nn.functional import linear, silu
from turns import turns

UE8M0 = 0  # fib: ue8m0


@torch.no_grad()
def moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w13_block_scales: torch.Tensor,
    w2: torch.Tensor,
    w2_block_scales: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    dtype = hidden_states.dtype
    output = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    x = rounded(hidden_states, UE8M0)
    for expert, tokens, weights in turns(topk_ids, topk_weights, w13.shape[0]):
        gate, up = linear(x[tokens], dequantized(w13[expert], w13_block_scales[expert], dtype)).chunk(2, dim=-1)
        acts = rounded(silu(gate.to(torch.float32)) * up, UE8M0).to(dtype)
        down = linear(acts, dequantized(w2[expert], w2_block_scales[expert], dtype))
        output.index_add_(0, tokens, down * weights)
    return output.to(dtype)
