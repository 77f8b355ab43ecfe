"""SwiGLU experts with fp8 weights in blocks, as two grouped products; order and sums of rows are routing.py's.

A tile of activations holds the 128 columns that share a scale, so that it is rounded to fp8 in registers, on its way
into the product, and nothing is written in fp8.
"""

import torch
import triton
import triton.language as tl
from fp8_tile import BLOCK, WIDEN, rounded, row_scales
from routing import Routing, rows_of, store_acts, store_parts

UE8M0 = 0  # fib: ue8m0


@triton.jit
def _gate_up(
    x_ptr, w_ptr, scale_ptr, act_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, topk, H, inner, x_step,
    w_expert, w_row, s_expert, s_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UE8M0: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m, here, slot = rows_of(block, order_ptr, start_ptr, end_ptr, BLOCK_M)
        token = (slot // topk).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        x_rows = x_ptr + token[:, None] * x_step
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        gate_scales = scale_ptr + expert * s_expert + n // BLOCK_K * s_row
        up_scales = scale_ptr + expert * s_expert + (inner + n) // BLOCK_K * s_row
        gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, H, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows + k[None, :], mask=here[:, None] & (k[None, :] < H), other=0.0).to(tl.float32)
            wanted = (n[None, :] < inner) & (k[:, None] < H)
            w_gate = tl.load(w_rows + k[:, None], mask=wanted, other=0.0)
            w_up = tl.load(w_rows + inner * w_row + k[:, None], mask=wanted, other=0.0)
            scale = row_scales(x, UE8M0)
            if WIDEN:
                w_gate, w_up = w_gate.to(tl.float32), w_up.to(tl.float32)
            x = rounded(x / scale[:, None], WIDEN)
            of_gate = tl.load(gate_scales + start // BLOCK_K, mask=n < inner, other=0.0)
            of_up = tl.load(up_scales + start // BLOCK_K, mask=n < inner, other=0.0)
            gate += tl.dot(x, w_gate, input_precision="ieee") * (scale[:, None] * of_gate[None, :])
            up += tl.dot(x, w_up, input_precision="ieee") * (scale[:, None] * of_up[None, :])
        store_acts(act_ptr, gate, up, m, n, here, inner)


@triton.jit
def _down(
    act_ptr, w_ptr, scale_ptr, weight_ptr, part_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, H, inner,
    w_expert, w_row, s_expert, s_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UE8M0: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m, here, slot = rows_of(block, order_ptr, start_ptr, end_ptr, BLOCK_M)
        slot = slot.to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        act_rows = act_ptr + m[:, None].to(tl.int64) * inner
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        scales = scale_ptr + expert * s_expert + n // BLOCK_K * s_row
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, inner, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            act = tl.load(act_rows + k[None, :], mask=here[:, None] & (k[None, :] < inner), other=0.0).to(tl.float32)
            w = tl.load(w_rows + k[:, None], mask=(n[None, :] < H) & (k[:, None] < inner), other=0.0)
            scale = row_scales(act, UE8M0)
            if WIDEN:
                w = w.to(tl.float32)
            of_w = tl.load(scales + start // BLOCK_K, mask=n < H, other=0.0)
            part = tl.dot(rounded(act / scale[:, None], WIDEN), w, input_precision="ieee")
            total += part * (scale[:, None] * of_w[None, :])
        store_parts(part_ptr, weight_ptr, total, slot, n, here, H)


@torch.no_grad()
def moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w13_block_scales: torch.Tensor,
    w2: torch.Tensor,
    w2_block_scales: torch.Tensor,
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
    for kernel, rows, w, scales, arguments in (
        (_gate_up, inner, w13, w13_block_scales.contiguous(), (acts,)),
        (_down, hidden, w2, w2_block_scales.contiguous(), (topk_weights.contiguous(), parts)),
    ):
        first = (hidden_states if kernel is _gate_up else acts, w, scales, *arguments)
        more = (topk, hidden, inner, hidden_states.stride(0)) if kernel is _gate_up else (hidden, inner)
        width = routing.tile_width(rows)
        kernel[(routing.blocks, triton.cdiv(rows, width))](
            *first, *routing.tables, *more, w.stride(0), w.stride(1), scales.stride(0), scales.stride(1),
            experts, BLOCK_M=routing.block_m, BLOCK_N=width, BLOCK_K=BLOCK, UE8M0=UE8M0, WIDEN=WIDEN,
            num_warps=4, num_stages=3,
        )  # fmt: skip
    routing.add(parts, output)
