"""SwiGLU experts one after the other: a pair of products for each that has tokens."""

import torch
from torch.nn.functional import linear, silu
from turns import turns


@torch.no_grad()
def moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    output = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    for expert, tokens, weights in turns(topk_ids, topk_weights, w13.shape[0]):
        gate, up = linear(hidden_states[tokens], w13[expert]).chunk(2, dim=-1)
        acts = (silu(gate.to(torch.float32)) * up).to(hidden_states.dtype)
        output.index_add_(0, tokens, linear(acts, w2[expert]) * weights)
    return output.to(hidden_states.dtype)
