"""Paged grouped-query attention with a running softmax, decode and causal prefill.

A program owns a block of query tokens of one request and one key-value head; all query heads of that head are rows of
the same tile, so keys and values are loaded once for the group. Nothing is read back to the host: the grid is an upper
bound that shapes alone give, and a program finds its request by itself. In decode, where few requests would leave most
of a device idle, a program owns a share of the keys (shares.py).
"""

import os

import torch
import triton
import triton.language as tl
from queries import load, request_of, rows_of, store
from running import LOG2_E, finish, step
from shares import Shares

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, qo_indptr, kv_indptr, kv_indices, out_ptr, lse_ptr, scale, requests, d, page_size,
    q_token, q_head, k_page, k_slot, k_head, v_page, v_slot, v_head,
    out_token, out_head, out_share, lse_token, lse_share,
    DECODE: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    D: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    kv_head = tl.program_id(1)
    if DECODE:
        request = block
        last = block + 1
        start = block
    else:
        request, last, start = request_of(qo_indptr, requests, block, TOKENS)
    if start < last:
        pages_begin = tl.load(kv_indptr + request)
        num_kv = (tl.load(kv_indptr + request + 1) - pages_begin) * page_size

        token, head, valid = rows_of(start, last, kv_head, GROUP, TOKENS, ROWS)
        visible = num_kv - (last - 1 - token)  # keys that a row sees: all but those of later tokens
        q = load(q_ptr, token, head, valid, d, q_token, q_head, D)
        i = tl.arange(0, D)
        inside = i < d

        top = tl.full((ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        result = tl.zeros((ROWS, D), tl.float32)
        longest = num_kv - (last - tl.minimum(start + TOKENS, last))
        share = tl.program_id(2)
        first_key = 0
        if DECODE:  # whole tiles of keys for each share but the last
            each = tl.cdiv(tl.cdiv(num_kv, KEYS), tl.num_programs(2)) * KEYS
            first_key = share * each
            longest = tl.minimum(first_key + each, num_kv)
        for begin in range(first_key, longest, KEYS):
            j = begin + tl.arange(0, KEYS)
            exists = j < longest
            page = tl.load(kv_indices + pages_begin + j // page_size, mask=exists, other=0).to(tl.int64)
            slot = j % page_size
            k_rows = k_ptr + page * k_page + slot * k_slot + kv_head * k_head
            k = tl.load(k_rows[None, :] + i[:, None], mask=exists[None, :] & inside[:, None], other=0.0)
            if WIDEN:
                q, k = q.to(tl.float32), k.to(tl.float32)
            scores = tl.dot(q, k, input_precision="ieee") * scale
            seen = j[None, :] < visible[:, None]
            scores = tl.where(seen, scores, -float("inf"))
            weights, shrink, top, total = step(scores, top, total)
            v_rows = v_ptr + page * v_page + slot * v_slot + kv_head * v_head
            v = tl.load(v_rows[:, None] + i[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
            if WIDEN:
                v = v.to(tl.float32)
            result = tl.dot(weights.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")

        result, lse = finish(result, top, total)
        out_ptr, lse_ptr = out_ptr + share * out_share, lse_ptr + share * lse_share
        store(out_ptr, lse_ptr, result, lse, token, head, valid, d, out_token, out_head, lse_token, D)


def _launch(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, sm_scale, output, lse):
    tokens, heads, d = q.shape
    page_size, kv_heads = k_cache.shape[1:3]
    requests = kv_indptr.shape[0] - 1
    group = heads // kv_heads
    decode = qo_indptr is None
    block_tokens = 1 if decode else max(1, 64 // triton.next_power_of_2(group))
    if not decode:  # rows that no request claims stay zero
        output.zero_()
        lse.fill_(-float("inf"))
    blocks = requests if decode else tokens // block_tokens + requests
    if blocks == 0:
        return
    keys = 32 if q.dtype == torch.float32 else 64
    most_keys = kv_indices.shape[0] * page_size if decode else 0  # prefill has programs enough
    shares = Shares(output, lse, blocks * kv_heads, most_keys, 2 * keys)
    _attend[(blocks, kv_heads, shares.count)](
        q, k_cache, v_cache, kv_indptr if decode else qo_indptr, kv_indptr, kv_indices,
        shares.parts, shares.part_lse, float(sm_scale) * LOG2_E, requests, d, page_size, q.stride(0), q.stride(1),
        k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        v_cache.stride(0), v_cache.stride(1), v_cache.stride(2),
        *shares.strides,
        DECODE=decode, GROUP=group, TOKENS=block_tokens,
        ROWS=max(16, triton.next_power_of_2(block_tokens * group)), KEYS=keys,
        D=max(16, triton.next_power_of_2(d)), WIDEN=WIDEN, num_warps=4, num_stages=2,
    )  # fmt: skip
    shares.join()


@torch.no_grad()
def gqa_paged_decode(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale, output, lse):
    _launch(q, k_cache, v_cache, None, kv_indptr, kv_indices, sm_scale, output, lse)


@torch.no_grad()
def gqa_paged_prefill(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, sm_scale, output, lse):
    _launch(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, sm_scale, output, lse)
