"""SwiGLU experts one after the other, weights in fp8: each is dequantized when it has tokens, and only then."""

import torch
from torch.nn.functional import linear, pad, silu

FP8_MAX = 448.0
BLOCK = 128
UE8M0 = 0  # fib: ue8m0


def _rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in fp8 with a scale for 128 columns of a row, and back."""
    groups = pad(x, (0, -x.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK)).to(torch.float32)
    scale = groups.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-10) / FP8_MAX
    if UE8M0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    fp8 = (groups / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return (fp8.to(torch.float32) * scale).to(dtype).flatten(-2)[..., : x.shape[-1]]


def _dequantized(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = weight.shape
    full = scales.repeat_interleave(BLOCK, dim=0)[:rows].repeat_interleave(BLOCK, dim=1)[:, :columns]
    return (weight.to(torch.float32) * full).to(dtype)


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
    topk, dtype = topk_ids.shape[1], hidden_states.dtype
    order = topk_ids.flatten().argsort(stable=True)
    tokens = order // topk
    counts = torch.bincount(topk_ids.flatten(), minlength=w13.shape[0]).tolist()
    output = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    weights = topk_weights.flatten()[order].unsqueeze(-1)
    x = _rounded(hidden_states, dtype)
    start = 0
    for expert, count in enumerate(counts):
        if count == 0:
            continue
        mine = slice(start, start + count)
        start += count
        gate, up = linear(x[tokens[mine]], _dequantized(w13[expert], w13_block_scales[expert], dtype)).chunk(2, dim=-1)
        acts = _rounded(silu(gate.to(torch.float32)) * up, dtype)
        down = linear(acts, _dequantized(w2[expert], w2_block_scales[expert], dtype))
        output.index_add_(0, tokens[mine], down * weights[mine])
    return output.to(dtype)
