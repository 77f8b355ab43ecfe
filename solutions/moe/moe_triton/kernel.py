"""SwiGLU experts as two grouped matrix products over (token, slot) pairs in the order of their experts.

Four kernels: one finds the order, two multiply, one adds up each token's rows, without atomics, so that the result is
the same each time. Blocks of rows never span two experts; how many there are is bounded by shapes alone, so nothing is
read back to the host. Few tokens give few blocks: then tiles are narrow, so that every processor has weights to read.
"""

import os

import torch
import triton
import triton.language as tl

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"
#: Tiles that keep a device of about 132 processors reading.
BUSY = 264


@triton.jit
def _route(
    ids_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, pairs, experts, blocks,
    BLOCK_M: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Program e places expert e's pairs, in order, and its blocks of rows; the last one marks the blocks too many.

    An id that is no expert's is nobody's pair; it is counted in the last bin, which no expert has.
    """
    mine = tl.program_id(0)
    each = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), dtype=tl.int32)
    for begin in range(0, pairs, CHUNK):
        i = begin + tl.arange(0, CHUNK)
        ids = tl.load(ids_ptr + i, mask=i < pairs, other=-1)
        counts += tl.histogram(tl.where((ids >= 0) & (ids < experts), ids, BINS - 1), BINS)
    counts = tl.where(each < experts, counts, 0)
    tiles = (counts + BLOCK_M - 1) // BLOCK_M
    first = tl.sum(tl.where(each < mine, tiles, 0), axis=0)
    if mine == experts:
        for begin in range(first, blocks, CHUNK):
            j = begin + tl.arange(0, CHUNK)
            tl.store(expert_ptr + j, tl.zeros((CHUNK,), dtype=tl.int32) + experts, mask=j < blocks)
    else:
        start = tl.sum(tl.where(each < mine, counts, 0), axis=0)
        end = start + tl.sum(tl.where(each == mine, counts, 0), axis=0)
        for begin in range(start, end, BLOCK_M):
            at = first + (begin - start) // BLOCK_M
            tl.store(expert_ptr + at, mine)
            tl.store(start_ptr + at, begin)
            tl.store(end_ptr + at, end)
        for begin in range(0, pairs, CHUNK):
            i = begin + tl.arange(0, CHUNK)
            hit = tl.load(ids_ptr + i, mask=i < pairs, other=-1) == mine
            place = start + tl.cumsum(hit.to(tl.int32), axis=0) - 1
            tl.store(order_ptr + place, i, mask=hit)
            start += tl.sum(hit.to(tl.int32), axis=0)


@triton.jit
def _gate_up(
    x_ptr, w_ptr, act_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, topk, H, inner, x_step, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
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
        act = gate * tl.sigmoid(gate) * up
        out = act_ptr + m[:, None].to(tl.int64) * inner + n[None, :]
        tl.store(out, act.to(act_ptr.dtype.element_ty), mask=here[:, None] & (n[None, :] < inner))


@triton.jit
def _down(
    act_ptr, w_ptr, weight_ptr, part_ptr, order_ptr, expert_ptr, start_ptr, end_ptr, H, inner, w_expert, w_row, experts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
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
        total *= tl.load(weight_ptr + slot, mask=here, other=0.0)[:, None]
        tl.store(part_ptr + slot[:, None] * H + n[None, :], total, mask=here[:, None] & (n[None, :] < H))


@triton.jit
def _add(part_ptr, ids_ptr, out_ptr, topk, H, out_step, experts, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in range(topk):
        expert = tl.load(ids_ptr + token * topk + slot)
        known = (expert >= 0) & (expert < experts)
        total += tl.load(part_ptr + (token * topk + slot) * H + i, mask=(i < H) & known, other=0.0)
    tl.store(out_ptr + token * out_step + i, total.to(out_ptr.dtype.element_ty), mask=i < H)


def _tile_width(size: int, blocks: int) -> int:
    """The widest tile of ``size`` columns with which ``blocks`` blocks of rows still keep the device busy."""
    return next((width for width in (64, 32) if blocks * triton.cdiv(size, width) >= BUSY), 16)


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
    if hidden_states.dtype == torch.float32:
        block_k, stages = 32, 2
    else:
        block_k, stages = (128, 4) if block_m <= 32 else (64, 3)
    for kernel, rows, k, arguments in (
        (_gate_up, inner, hidden, (hidden_states, w13, acts)),
        (_down, hidden, inner, (acts, w2, topk_weights.contiguous(), parts)),
    ):
        width = _tile_width(rows, used)
        more = (topk, hidden, inner, hidden_states.stride(0)) if kernel is _gate_up else (hidden, inner)
        w = arguments[1]
        kernel[(blocks, triton.cdiv(rows, width))](
            *arguments, order, expert, start, end, *more, w.stride(0), w.stride(1), experts,
            BLOCK_M=block_m, BLOCK_N=width, BLOCK_K=block_k, WHOLE=k % block_k == 0 and rows % width == 0,
            WIDEN=WIDEN, num_warps=4, num_stages=stages,
        )  # fmt: skip
    block = min(1024, triton.next_power_of_2(hidden))
    _add[(tokens, triton.cdiv(hidden, block))](
        parts, ids, output, topk, hidden, output.stride(0), experts, BLOCK=block, num_warps=4
    )
