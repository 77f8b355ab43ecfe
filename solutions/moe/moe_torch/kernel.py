"""SwiGLU experts one after the other: tokens are sorted by expert once, so that each expert takes a slice."""

import torch
from torch.nn.functional import linear, silu


@torch.no_grad()
def moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    topk = topk_ids.shape[1]
    order = topk_ids.flatten().argsort(stable=True)
    tokens = order // topk
    counts = torch.bincount(topk_ids.flatten(), minlength=w13.shape[0]).tolist()
    output = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    weights = topk_weights.flatten()[order].unsqueeze(-1)
    start = 0
    for expert, count in enumerate(counts):
        if count == 0:
            continue
        mine = slice(start, start + count)
        start += count
        gate, up = linear(hidden_states[tokens[mine]], w13[expert]).chunk(2, dim=-1)
        acts = (silu(gate.to(torch.float32)) * up).to(hidden_states.dtype)
        output.index_add_(0, tokens[mine], linear(acts, w2[expert]) * weights[mine])
    return output.to(hidden_states.dtype)
