"""Decode of multi-head latent attention over a paged cache: a latent key is loaded once, as key and as value.

A program owns a block of heads of one request and a share of its keys; a second kernel joins the shares. How many
shares there are follows from shapes alone, so that nothing is read back to the host and a graph may hold the launch.
"""

import functools
import os

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"
MOST_SHARES = 64


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

    some = total > 0
    result = result / tl.where(some, total, 1.0)[:, None]
    out_at = out_ptr + request * out_row + share * out_share + head[:, None] * out_head + i[None, :]
    tl.store(out_at, result.to(out_ptr.dtype.element_ty), mask=valid[:, None] & (i < ckv)[None, :])
    # Scores carry log2(e) already, so this is the base 2 log-sum.
    lse = tl.where(some, top + tl.log2(tl.where(some, total, 1.0)), -float("inf"))
    tl.store(lse_ptr + request * lse_row + share * lse_share + head, lse, mask=valid)


@triton.jit
def _join(
    part_ptr, part_lse_ptr, out_ptr, lse_ptr, shares, heads, ckv, out_row, out_head, lse_row,
    SHARES: tl.constexpr, CKV: tl.constexpr,
):  # fmt: skip
    """Shares' results, each weighted by its part of the whole sum; parts [batch, shares, heads, ckv] lie packed."""
    request = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    s = tl.arange(0, SHARES)
    at = request * shares * heads + s * heads + head
    lse = tl.load(part_lse_ptr + at, mask=s < shares, other=-float("inf"))
    top = tl.max(lse, axis=0)
    base = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(tl.exp2(lse - base), axis=0)
    i = tl.arange(0, CKV)
    inside = i < ckv
    result = tl.zeros((CKV,), tl.float32)
    for share in range(shares):
        place = request * shares * heads + share * heads + head
        weight = tl.exp2(tl.load(part_lse_ptr + place) - base)
        result += weight * tl.load(part_ptr + place * ckv + i, mask=inside, other=0.0)
    some = total > 0
    result = result / tl.where(some, total, 1.0)
    tl.store(out_ptr + request * out_row + head * out_head + i, result.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + request * lse_row + head, tl.where(some, base + tl.log2(tl.where(some, total, 1.0)), top))


@functools.cache
def _processors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


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
    # As many shares as fill the device, none of fewer than two tiles where all keys are one request's.
    most = triton.cdiv(kv_indices.shape[0] * page_size, 2 * keys)
    shares = max(1, min(_processors(q_nope.device) // (batch * blocks), most, MOST_SHARES))
    if shares == 1:
        parts, part_lse = output, lse
        part_strides = output.stride(0), output.stride(1), 0, lse.stride(0), 0
    else:
        parts = torch.empty((batch, shares, heads, ckv), dtype=torch.float32, device=q_nope.device)
        part_lse = torch.empty((batch, shares, heads), dtype=torch.float32, device=q_nope.device)
        part_strides = shares * heads * ckv, ckv, heads * ckv, shares * heads, heads
    padded = max(16, triton.next_power_of_2(ckv))
    _attend[(batch, blocks, shares)](
        q_nope, q_pe, ckv_cache, kpe_cache, kv_indptr, kv_indices, parts, part_lse,
        float(sm_scale) * LOG2_E, heads, ckv, kpe, page_size,
        q_nope.stride(0), q_nope.stride(1), q_pe.stride(0), q_pe.stride(1),
        ckv_cache.stride(0), ckv_cache.stride(1), kpe_cache.stride(0), kpe_cache.stride(1), *part_strides,
        ROWS=rows, KEYS=keys, CKV=padded, KPE=max(16, triton.next_power_of_2(kpe)), WIDEN=WIDEN,
        num_warps=8 if rows >= 32 else 4, num_stages=2,
    )  # fmt: skip
    if shares > 1:
        _join[(batch, heads)](
            parts, part_lse, output, lse, shares, heads, ckv, output.stride(0), output.stride(1), lse.stride(0),
            SHARES=triton.next_power_of_2(shares), CKV=padded, num_warps=4,
        )  # fmt: skip
