"""SwiGLU experts with fp8 weights in blocks: routing and sums of moe_triton, products of their own.

A tile of activations holds the 128 columns that share a scale, so that it is rounded to fp8 in registers, on its way
into the product, and nothing is written in fp8.
"""

import os

import torch
import triton
import triton.language as tl
from kernel import _add, _route, _tile_width

#: Triton's interpreter (3.5) loses the carry when it rounds to fp8 (31.9 becomes 16): there fp8 is played in float32.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"
UE8M0 = 0  # fib: ue8m0
BLOCK = 128


@triton.jit
def _scale(x, UE8M0: tl.constexpr):
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-10) / 448.0
    if UE8M0:
        scale = tl.exp2(tl.ceil(tl.log2(scale)))
    return scale


@triton.jit
def _round(x, WIDEN: tl.constexpr):
    x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    if WIDEN:
        # Normals keep 3 bits of mantissa, ties to even; below 2**-6 all are multiples of 2**-9.
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
        return tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, bits.to(tl.float32, bitcast=True))
    else:
        return x.to(tl.float8e4nv)


@triton.jit
def _gate_up(
    x_ptr, w_ptr, scale_ptr, act_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, topk, H, inner, x_step,
    w_expert, w_row, s_expert, s_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UE8M0: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m = tl.load(start_ptr + block) + tl.arange(0, BLOCK_M)
        here = m < tl.load(end_ptr + block)
        token = (tl.load(order_ptr + m, mask=here, other=0) // topk).to(tl.int64)
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
            scale = _scale(x, UE8M0)
            if WIDEN:
                w_gate, w_up = w_gate.to(tl.float32), w_up.to(tl.float32)
            x = _round(x / scale[:, None], WIDEN)
            of_gate = tl.load(gate_scales + start // BLOCK_K, mask=n < inner, other=0.0)
            of_up = tl.load(up_scales + start // BLOCK_K, mask=n < inner, other=0.0)
            gate += tl.dot(x, w_gate, input_precision="ieee") * (scale[:, None] * of_gate[None, :])
            up += tl.dot(x, w_up, input_precision="ieee") * (scale[:, None] * of_up[None, :])
        act = gate * tl.sigmoid(gate) * up
        out = act_ptr + m[:, None].to(tl.int64) * inner + n[None, :]
        tl.store(out, act.to(act_ptr.dtype.element_ty), mask=here[:, None] & (n[None, :] < inner))


@triton.jit
def _down(
    act_ptr, w_ptr, scale_ptr, weight_ptr, part_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, H, inner,
    w_expert, w_row, s_expert, s_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UE8M0: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    expert = tl.load(expert_ptr + block).to(tl.int64)
    if expert < experts:
        m = tl.load(start_ptr + block) + tl.arange(0, BLOCK_M)
        here = m < tl.load(end_ptr + block)
        slot = tl.load(order_ptr + m, mask=here, other=0).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        act_rows = act_ptr + m[:, None].to(tl.int64) * inner
        w_rows = w_ptr + expert * w_expert + n[None, :].to(tl.int64) * w_row
        scales = scale_ptr + expert * s_expert + n // BLOCK_K * s_row
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, inner, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            act = tl.load(act_rows + k[None, :], mask=here[:, None] & (k[None, :] < inner), other=0.0).to(tl.float32)
            w = tl.load(w_rows + k[:, None], mask=(n[None, :] < H) & (k[:, None] < inner), other=0.0)
            scale = _scale(act, UE8M0)
            if WIDEN:
                w = w.to(tl.float32)
            of_w = tl.load(scales + start // BLOCK_K, mask=n < H, other=0.0)
            part = tl.dot(_round(act / scale[:, None], WIDEN), w, input_precision="ieee")
            total += part * (scale[:, None] * of_w[None, :])
        total *= tl.load(weight_ptr + slot, mask=here, other=0.0)[:, None]
        tl.store(part_ptr + slot[:, None] * H + n[None, :], total, mask=here[:, None] & (n[None, :] < H))


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
    device, pairs = hidden_states.device, tokens * topk
    ids = topk_ids.contiguous()
    block_m = min(64, max(16, triton.next_power_of_2(triton.cdiv(pairs, experts))))
    used = min(experts, pairs)
    blocks = triton.cdiv(pairs, block_m) + used
    routing = torch.empty(pairs + 3 * blocks, dtype=torch.int32, device=device)
    order, expert, start, end = routing.split([pairs, blocks, blocks, blocks])
    _route[(experts + 1,)](
        ids, order, expert, start, end, pairs, experts, blocks, BLOCK_M=block_m,
        CHUNK=min(4096, max(16, triton.next_power_of_2(pairs))), BINS=max(16, triton.next_power_of_2(experts + 1)),
        num_warps=4,
    )  # fmt: skip
    acts = torch.empty(pairs, inner, dtype=hidden_states.dtype, device=device)
    parts = torch.empty(pairs, hidden, dtype=torch.float32, device=device)
    for kernel, rows, w, scales, arguments in (
        (_gate_up, inner, w13, w13_block_scales.contiguous(), (acts,)),
        (_down, hidden, w2, w2_block_scales.contiguous(), (topk_weights.contiguous(), parts)),
    ):
        first = (hidden_states if kernel is _gate_up else acts, w, scales, *arguments)
        more = (topk, hidden, inner, hidden_states.stride(0)) if kernel is _gate_up else (hidden, inner)
        width = _tile_width(rows, used)
        kernel[(blocks, triton.cdiv(rows, width))](
            *first, order, expert, start, end, *more, w.stride(0), w.stride(1), scales.stride(0), scales.stride(1),
            experts, BLOCK_M=block_m, BLOCK_N=width, BLOCK_K=BLOCK, UE8M0=UE8M0, WIDEN=WIDEN,
            num_warps=4, num_stages=3,
        )  # fmt: skip
    block = min(1024, triton.next_power_of_2(hidden))
    _add[(tokens, triton.cdiv(hidden, block))](
        parts, ids, output, topk, hidden, output.stride(0), experts, BLOCK=block, num_warps=4
    )
