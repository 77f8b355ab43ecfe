"""Grouped-query attention over a paged key-value cache, decode and causal prefill."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import Spec, make_definition
from fib_plugin.schema import Definition

_REFERENCE = """
import math

import torch

NUM_KV_HEADS = {num_kv_heads}


@torch.no_grad()
def run({arguments}):
    {bounds}
    output = torch.zeros_like(q)
    lse = torch.full(q.shape[:2], -float("inf"), dtype=torch.float32, device=q.device)
    group = q.shape[1] // NUM_KV_HEADS
    page_size = k_cache.shape[1]
    for request in range(kv_indptr.shape[0] - 1):
        start, end = (int(bounds[request]), int(bounds[request + 1]))
        pages = kv_indices[int(kv_indptr[request]) : int(kv_indptr[request + 1])].long()
        if start == end or pages.numel() == 0:
            continue
        keys = k_cache[pages].to(torch.float32).flatten(0, 1).repeat_interleave(group, dim=1)
        values = v_cache[pages].to(torch.float32).flatten(0, 1).repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[start:end].to(torch.float32), keys) * sm_scale
        num_q, num_kv = end - start, keys.shape[0]
        # The last query sees every key: queries are the newest tokens of the sequence.
        position = torch.arange(num_q, device=q.device)[:, None] + num_kv - num_q
        visible = torch.arange(num_kv, device=q.device) <= position
        scores = scores.masked_fill(~visible, -float("inf"))
        output[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values).to(q.dtype)
        lse[start:end] = (torch.logsumexp(scores, dim=-1) / math.log(2.0)).T
    return output, lse
"""


def _gqa_paged(stem: str, rows: str, prefill: bool, h: int, kv: int, d: int, page_size: int, dtype: str) -> Definition:
    cache: Spec = (["num_pages", "page_size", "num_kv_heads", "head_dim"], dtype)
    indptr: Spec = (["len_indptr"], "int32")
    inputs: dict[str, Spec] = {"q": ([rows, "num_qo_heads", "head_dim"], dtype), "k_cache": cache, "v_cache": cache}
    if prefill:
        inputs["qo_indptr"] = indptr
    inputs |= {"kv_indptr": indptr, "kv_indices": (["num_kv_indices"], "int32"), "sm_scale": (None, "float32")}
    return make_definition(
        f"{stem}{dtype_part(dtype)}_h{h}_kv{kv}_d{d}_ps{page_size}",
        "gqa_paged",
        {
            rows: None,
            "num_pages": None,
            "len_indptr": None,
            "num_kv_indices": None,
            "num_qo_heads": h,
            "num_kv_heads": kv,
            "head_dim": d,
            "page_size": page_size,
        },
        inputs,
        {
            "output": ([rows, "num_qo_heads", "head_dim"], dtype),
            "lse": ([rows, "num_qo_heads"], "float32"),
        },
        _REFERENCE.format(
            num_kv_heads=kv,
            arguments=", ".join(inputs),
            bounds="bounds = qo_indptr" if prefill else "bounds = torch.arange(q.shape[0] + 1)",
        ),
        f"Batched {'causal prefill' if prefill else 'decode'} of grouped-query attention over a paged KV cache with "
        f"{h} query heads, {kv} KV heads, head size {d}, page size {page_size}. lse is base 2.",
    )


def gqa_paged_decode(
    num_qo_heads: int, num_kv_heads: int, head_dim: int, page_size: int = 1, dtype: str = "bfloat16"
) -> Definition:
    """One new token per request: q [batch_size, num_qo_heads, head_dim], pages listed by kv_indptr and kv_indices."""
    args = (num_qo_heads, num_kv_heads, head_dim, page_size, dtype)
    return _gqa_paged("gqa_paged_decode", "batch_size", False, *args)


def gqa_paged_prefill(
    num_qo_heads: int, num_kv_heads: int, head_dim: int, page_size: int = 1, dtype: str = "bfloat16"
) -> Definition:
    """Several new tokens per request, causal and aligned to the end: q [total_q, ...] split by qo_indptr."""
    args = (num_qo_heads, num_kv_heads, head_dim, page_size, dtype)
    return _gqa_paged("gqa_paged_prefill_causal", "total_q", True, *args)


_POOL = ("k_cache", "v_cache")
_PAGES = ("kv_indptr", "kv_indices", "sm_scale")

SPECS = (
    OpSpec(
        family="gqa_paged_decode",
        op_type="gqa_paged",
        key_axes=("batch_size", "num_kv_indices"),
        inputs=("q", *_POOL, *_PAGES),
        make=gqa_paged_decode,
        structural=_PAGES,
    ),
    OpSpec(
        family="gqa_paged_prefill",
        op_type="gqa_paged",
        key_axes=("total_q", "num_kv_indices"),
        inputs=("q", *_POOL, "qo_indptr", *_PAGES),
        make=gqa_paged_prefill,
        structural=("qo_indptr", *_PAGES),
    ),
)
