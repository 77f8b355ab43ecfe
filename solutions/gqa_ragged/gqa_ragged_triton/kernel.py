"""Causal prefill of grouped-query attention over keys that lie one request after the other, with a running softmax.

A program owns a block of query tokens of one request and one key-value head; all query heads of that head are rows of
the same tile, so keys and values are loaded once for the group. Nothing is read back to the host: the grid is an upper
bound that shapes alone give, and a program finds its request by itself.
"""

import os

import torch
import triton
import triton.language as tl
from queries import load, request_of, rows_of, store
from running import LOG2_E, finish, step

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _keys(
    q, k_rows, v_rows, k_token, v_token, begin, end, visible, d, scale, top, total, result,
    MASKED: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """The running softmax over keys [begin, end); MASKED where some row does not see all of them."""
    i = tl.arange(0, D)
    inside = i < d
    for start in range(begin, end, KEYS):
        j = start + tl.arange(0, KEYS)
        place = j.to(tl.int64)
        k_at = k_rows + place[None, :] * k_token + i[:, None]
        v_at = v_rows + place[:, None] * v_token + i[None, :]
        if MASKED:
            exists = j < end
            k = tl.load(k_at, mask=exists[None, :] & inside[:, None], other=0.0)
            v = tl.load(v_at, mask=exists[:, None] & inside[None, :], other=0.0)
        elif WHOLE:
            k = tl.load(k_at)
            v = tl.load(v_at)
        else:
            k = tl.load(k_at, mask=inside[:, None], other=0.0)
            v = tl.load(v_at, mask=inside[None, :], other=0.0)
        if WIDEN:
            q, k, v = q.to(tl.float32), k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(j[None, :] < visible[:, None], scores, -float("inf"))
        weights, shrink, top, total = step(scores, top, total)
        result = tl.dot(weights.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
    return top, total, result


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, qo_indptr, kv_indptr, out_ptr, lse_ptr, scale, requests, d,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head, lse_token,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    D: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    # The last blocks of a long request see the most keys: they begin first, so that none of them is left for the end.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    request, last, start = request_of(qo_indptr, requests, block, TOKENS)
    if start < last:
        kv_first = tl.load(kv_indptr + request)
        num_kv = tl.load(kv_indptr + request + 1) - kv_first

        token, head, valid = rows_of(start, last, kv_head, GROUP, TOKENS, ROWS)
        visible = num_kv - (last - 1 - token)  # keys that a row sees: all but those of later tokens
        q = load(q_ptr, token, head, valid, d, q_token, q_head, D)

        top = tl.full((ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        result = tl.zeros((ROWS, D), tl.float32)
        k_rows = k_ptr + kv_first.to(tl.int64) * k_token + kv_head * k_head
        v_rows = v_ptr + kv_first.to(tl.int64) * v_token + kv_head * v_head
        # What the block's first token sees, every row sees: whole tiles of it need no mask.
        open_end = tl.maximum(num_kv - (last - 1 - start), 0) // KEYS * KEYS
        end = tl.maximum(num_kv - (last - tl.minimum(start + TOKENS, last)), 0)
        top, total, result = _keys(
            q, k_rows, v_rows, k_token, v_token, 0, open_end, visible, d, scale, top, total, result,
            False, KEYS, D, WHOLE, WIDEN,
        )  # fmt: skip
        top, total, result = _keys(
            q, k_rows, v_rows, k_token, v_token, open_end, end, visible, d, scale, top, total, result,
            True, KEYS, D, WHOLE, WIDEN,
        )  # fmt: skip

        result, lse = finish(result, top, total)
        store(out_ptr, lse_ptr, result, lse, token, head, valid, d, out_token, out_head, lse_token, D)


@torch.no_grad()
def gqa_ragged_prefill(q, k, v, qo_indptr, kv_indptr, sm_scale, output, lse):
    tokens, heads, d = q.shape
    kv_heads = k.shape[1]
    requests = qo_indptr.shape[0] - 1
    group = heads // kv_heads
    narrow = q.dtype != torch.float32 and d <= 128
    block_tokens = max(1, (128 if narrow else 32) // triton.next_power_of_2(group))
    output.zero_()  # rows that no request claims stay zero
    lse.fill_(-float("inf"))
    if requests < 1 or tokens == 0:
        return
    rows = max(16, triton.next_power_of_2(block_tokens * group))
    padded = max(16, triton.next_power_of_2(d))
    _attend[(tokens // block_tokens + requests, kv_heads)](
        q, k, v, qo_indptr, kv_indptr, output, lse, float(sm_scale) * LOG2_E, requests, d, q.stride(0), q.stride(1),
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), output.stride(0), output.stride(1), lse.stride(0),
        GROUP=group, TOKENS=block_tokens, ROWS=rows, KEYS=64 if narrow else 32, D=padded, WHOLE=d == padded,
        WIDEN=WIDEN, num_warps=8 if rows >= 128 else 4, num_stages=3 if narrow else 2,
    )  # fmt: skip
