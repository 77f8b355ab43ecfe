"""SwiGLU experts as two grouped matrix products over tokens sorted by expert.

Blocks of rows never span two experts; how many there are is bounded by shapes alone, so nothing is read back to the
host. The second product writes one row per (token, slot) and torch adds them up: no atomics, the same result each time.
"""

import os

import torch
import triton
import triton.language as tl

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _gate_up(
    x_ptr, w_ptr, act_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, topk, H, inner, x_step, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block)
    if expert < experts:
        m = tl.load(start_ptr + block) + tl.arange(0, BLOCK_M)
        here = m < tl.load(end_ptr + block)
        token = tl.load(order_ptr + m, mask=here, other=0) // topk
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        x_rows = x_ptr + token[:, None] * x_step
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, H, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows + k[None, :], mask=here[:, None] & (k[None, :] < H), other=0.0)
            wanted = (n[None, :] < inner) & (k[:, None] < H)
            w_gate = tl.load(w_rows + k[:, None], mask=wanted, other=0.0)
            w_up = tl.load(w_rows + inner * w_row + k[:, None], mask=wanted, other=0.0)
            if WIDEN:
                x, w_gate, w_up = x.to(tl.float32), w_gate.to(tl.float32), w_up.to(tl.float32)
            gate = tl.dot(x, w_gate, gate, input_precision="ieee")
            up = tl.dot(x, w_up, up, input_precision="ieee")
        act = gate * tl.sigmoid(gate) * up
        out = act_ptr + m[:, None].to(tl.int64) * inner + n[None, :]
        tl.store(out, act.to(act_ptr.dtype.element_ty), mask=here[:, None] & (n[None, :] < inner))


@triton.jit
def _down(
    act_ptr, w_ptr, weight_ptr, part_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, H, inner, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block)
    if expert < experts:
        m = tl.load(start_ptr + block) + tl.arange(0, BLOCK_M)
        here = m < tl.load(end_ptr + block)
        slot = tl.load(order_ptr + m, mask=here, other=0)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        act_rows = act_ptr + m[:, None].to(tl.int64) * inner
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, inner, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            act = tl.load(act_rows + k[None, :], mask=here[:, None] & (k[None, :] < inner), other=0.0)
            w = tl.load(w_rows + k[:, None], mask=(n[None, :] < H) & (k[:, None] < inner), other=0.0)
            if WIDEN:
                act, w = act.to(tl.float32), w.to(tl.float32)
            total = tl.dot(act, w, total, input_precision="ieee")
        total *= tl.load(weight_ptr + slot, mask=here, other=0.0)[:, None]
        tl.store(part_ptr + slot[:, None] * H + n[None, :], total, mask=here[:, None] & (n[None, :] < H))


def _blocks(ids: torch.Tensor, experts: int, block_m: int) -> tuple[torch.Tensor, ...]:
    """For each block of rows: its expert (``experts`` for a block too many), first row and end, all int64."""
    counts = (ids.unsqueeze(0) == torch.arange(experts, device=ids.device).unsqueeze(1)).sum(dim=1)
    blocks = (counts + block_m - 1) // block_m
    ends = blocks.cumsum(0)
    block = torch.arange(triton.cdiv(ids.numel(), block_m) + min(experts, ids.numel()), device=ids.device)
    expert = torch.searchsorted(ends, block, right=True)
    known = expert.clamp(max=experts - 1)
    row_ends = counts.cumsum(0)
    start = row_ends[known] - counts[known] + (block - (ends[known] - blocks[known])) * block_m
    return expert, start, row_ends[known]


@torch.no_grad()
def moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    output: torch.Tensor,
) -> None:
    (tokens, hidden), topk = hidden_states.shape, topk_ids.shape[1]
    experts, inner = w2.shape[0], w2.shape[2]
    if tokens == 0:
        return
    ids = topk_ids.flatten()
    order = ids.argsort(stable=True)
    per_expert = triton.cdiv(ids.numel(), experts)
    block_m = min(64, max(16, triton.next_power_of_2(per_expert)))
    expert, start, end = _blocks(ids, experts, block_m)
    acts = torch.empty(ids.numel(), inner, dtype=hidden_states.dtype, device=hidden_states.device)
    parts = torch.empty(ids.numel(), hidden, dtype=torch.float32, device=hidden_states.device)
    sizes = {"BLOCK_M": block_m, "BLOCK_N": 64, "BLOCK_K": 32 if hidden_states.dtype == torch.float32 else 64}
    _gate_up[(expert.numel(), triton.cdiv(inner, 64))](
        hidden_states, w13, acts, order, expert, start, end, topk, hidden, inner, hidden_states.stride(0),
        w13.stride(0), w13.stride(1), experts, WIDEN=WIDEN, **sizes,
    )  # fmt: skip
    _down[(expert.numel(), triton.cdiv(hidden, 64))](
        acts, w2, topk_weights.contiguous(), parts, order, expert, start, end, hidden, inner,
        w2.stride(0), w2.stride(1), experts, WIDEN=WIDEN, **sizes,
    )  # fmt: skip
    output.copy_(parts.view(tokens, topk, hidden).sum(dim=1))
