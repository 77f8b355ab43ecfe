"""Decode of multi-head latent attention over a paged cache: a latent key is loaded once, as key and as value.

A program owns a block of heads of one request and a share of its keys; a second kernel joins the shares (shares.py).
"""

import os

import torch
import triton
import triton.language as tl
from running import LOG2_E, finish
from shares import Shares

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _attend(
    nope_ptr, pe_ptr, ckv_ptr, kpe_ptr, kv_indptr, kv_indices, out_ptr, lse_ptr, scale, heads, ckv, kpe, page_size,
    nope_row, nope_head, pe_row, pe_head, ckv_page, ckv_slot, kpe_page, kpe_slot,
    out_row, out_head, out_share, lse_row, lse_share,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CKV: tl.constexpr, KPE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    share = tl.program_id(2)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    valid = head < heads
    pages = tl.load(kv_indptr + request)
    num_kv = (tl.load(kv_indptr + request + 1) - pages) * page_size
    # Whole tiles of keys for each share but the last.
    each = tl.cdiv(tl.cdiv(num_kv, KEYS), tl.num_programs(2)) * KEYS
    begin = share * each
    end = tl.minimum(begin + each, num_kv)

    i = tl.arange(0, CKV)
    r = tl.arange(0, KPE)
    nope_at = nope_ptr + request * nope_row + head[:, None] * nope_head + i[None, :]
    pe_at = pe_ptr + request * pe_row + head[:, None] * pe_head + r[None, :]
    q = tl.load(nope_at, mask=valid[:, None] & (i < ckv)[None, :], other=0.0)
    q_pe = tl.load(pe_at, mask=valid[:, None] & (r < kpe)[None, :], other=0.0)
    if WIDEN:
        q, q_pe = q.to(tl.float32), q_pe.to(tl.float32)
    top = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, CKV), tl.float32)
    for start in range(begin, end, KEYS):
        j = start + tl.arange(0, KEYS)
        exists = j < end
        page = tl.load(kv_indices + pages + j // page_size, mask=exists, other=0).to(tl.int64)
        slot = j % page_size
        latent_at = ckv_ptr + (page * ckv_page + slot * ckv_slot)[:, None] + i[None, :]
        rotary_at = kpe_ptr + (page * kpe_page + slot * kpe_slot)[None, :] + r[:, None]
        latent = tl.load(latent_at, mask=exists[:, None] & (i < ckv)[None, :], other=0.0)
        rotary = tl.load(rotary_at, mask=exists[None, :] & (r < kpe)[:, None], other=0.0)
        if WIDEN:
            latent, rotary = latent.to(tl.float32), rotary.to(tl.float32)
        scores = tl.dot(q_pe, rotary, input_precision="ieee")
        scores = tl.dot(q, tl.trans(latent), scores, input_precision="ieee") * scale
        scores = tl.where(exists[None, :], scores, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])  # a tile has at least one key
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, axis=1)
        result = tl.dot(weights.to(latent.dtype), latent, result * shrink[:, None], input_precision="ieee")
        top = new_top

    result, lse = finish(result, top, total)
    out_at = out_ptr + request * out_row + share * out_share + head[:, None] * out_head + i[None, :]
    tl.store(out_at, result.to(out_ptr.dtype.element_ty), mask=valid[:, None] & (i < ckv)[None, :])
    tl.store(lse_ptr + request * lse_row + share * lse_share + head, lse, mask=valid)


@torch.no_grad()
def mla_paged_decode(q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, sm_scale, output, lse):
    batch, heads, ckv = q_nope.shape
    kpe, page_size = q_pe.shape[2], ckv_cache.shape[1]
    if batch == 0:
        return
    wide = q_nope.dtype == torch.float32
    rows = 16 if wide else min(64, max(16, triton.next_power_of_2(heads)))
    keys = 16 if wide else 32
    blocks = triton.cdiv(heads, rows)
    shares = Shares(output, lse, batch * blocks, kv_indices.shape[0] * page_size, 2 * keys)
    _attend[(batch, blocks, shares.count)](
        q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, shares.parts, shares.part_lse,
        float(sm_scale) * LOG2_E, heads, ckv, kpe, page_size,
        q_nope.stride(0), q_nope.stride(1), q_pe.stride(0), q_pe.stride(1),
        ckv_cache.stride(0), ckv_cache.stride(1), kpe_cache.stride(0), kpe_cache.stride(1), *shares.strides,
        ROWS=rows, KEYS=keys, CKV=max(16, triton.next_power_of_2(ckv)), KPE=max(16, triton.next_power_of_2(kpe)),
        WIDEN=WIDEN, num_warps=8 if rows >= 32 else 4, num_stages=2,
    )  # fmt: skip
    shares.join()
