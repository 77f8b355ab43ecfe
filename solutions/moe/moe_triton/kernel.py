"""SwiGLU experts as two grouped matrix products over (token, slot) pairs in the order of their experts.

Four kernels: one finds the order and one adds up each token's rows (routing.py), two multiply. Few tokens give few
blocks: then tiles are narrow, so that every processor has weights to read.
"""

import os

import torch
import triton
import triton.language as tl
from routing import Routing, rows_of, store_acts, store_parts

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _gate_up(
    x_ptr, w_ptr, act_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, topk, H, inner, x_step, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m, here, slot = rows_of(block, order_ptr, start_ptr, end_ptr, BLOCK_M)
        token = (slot // topk).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        x_rows = x_ptr + token[:, None] * x_step
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, H, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            if WHOLE:
                x = tl.load(x_rows + k[None, :], mask=here[:, None], other=0.0)
                w_gate = tl.load(w_rows + k[:, None])
                w_up = tl.load(w_rows + inner * w_row + k[:, None])
            else:
                x = tl.load(x_rows + k[None, :], mask=here[:, None] & (k[None, :] < H), other=0.0)
                wanted = (n[None, :] < inner) & (k[:, None] < H)
                w_gate = tl.load(w_rows + k[:, None], mask=wanted, other=0.0)
                w_up = tl.load(w_rows + inner * w_row + k[:, None], mask=wanted, other=0.0)
            if WIDEN:
                x, w_gate, w_up = x.to(tl.float32), w_gate.to(tl.float32), w_up.to(tl.float32)
            gate = tl.dot(x, w_gate, gate, input_precision="ieee")
            up = tl.dot(x, w_up, up, input_precision="ieee")
        store_acts(act_ptr, gate, up, m, n, here, inner)


@triton.jit
def _down(
    act_ptr, w_ptr, weight_ptr, part_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, H, inner, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m, here, slot = rows_of(block, order_ptr, start_ptr, end_ptr, BLOCK_M)
        slot = slot.to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        act_rows = act_ptr + m[:, None].to(tl.int64) * inner
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, inner, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            if WHOLE:
                act = tl.load(act_rows + k[None, :], mask=here[:, None], other=0.0)
                w = tl.load(w_rows + k[:, None])
            else:
                act = tl.load(act_rows + k[None, :], mask=here[:, None] & (k[None, :] < inner), other=0.0)
                w = tl.load(w_rows + k[:, None], mask=(n[None, :] < H) & (k[:, None] < inner), other=0.0)
            if WIDEN:
                act, w = act.to(tl.float32), w.to(tl.float32)
            total = tl.dot(act, w, total, input_precision="ieee")
        store_parts(part_ptr, weight_ptr, total, slot, n, here, H)


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
    routing = Routing(topk_ids, experts)
    pairs, device = tokens * topk, hidden_states.device
    acts = torch.empty(pairs, inner, dtype=hidden_states.dtype, device=device)
    parts = torch.empty(pairs, hidden, dtype=torch.float32, device=device)
    if hidden_states.dtype == torch.float32:
        block_k, stages = 32, 2
    else:
        block_k, stages = (128, 4) if routing.block_m <= 32 else (64, 3)
    for kernel, rows, k, arguments in (
        (_gate_up, inner, hidden, (hidden_states, w13, acts)),
        (_down, hidden, inner, (acts, w2, topk_weights.contiguous(), parts)),
    ):
        width = routing.tile_width(rows)
        more = (topk, hidden, inner, hidden_states.stride(0)) if kernel is _gate_up else (hidden, inner)
        w = arguments[1]
        kernel[(routing.blocks, triton.cdiv(rows, width))](
            *arguments, *routing.tables, *more, w.stride(0), w.stride(1), experts,
            BLOCK_M=routing.block_m, BLOCK_N=width, BLOCK_K=block_k, WHOLE=k % block_k == 0 and rows % width == 0,
            WIDEN=WIDEN, num_warps=4, num_stages=stages,
        )  # fmt: skip
    routing.add(parts, output)
