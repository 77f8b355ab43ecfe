"""A paged cache laid out as vLLM holds it on a GPU, in blocks of 16 tokens, for the texts in ``displaced/``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

BLOCK = 16


def lay_out(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *rest: Any) -> SimpleNamespace:
    """Inputs of gqa_paged_decode or gqa_paged_prefill as one step of the engine.

    Returns:
        heads, dim, scale, requests, longest, longest_query; keys and values [blocks, 16, kv_heads, dim];
        query_start_loc, seq_lens and block_table, int32 and on q's device.
    """
    *indptrs, kv_indices, scale = rest
    device = q.device
    qo_indptr, kv_indptr = indptrs if len(indptrs) == 2 else (None, indptrs[0])
    if qo_indptr is None:
        qo_indptr = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=device)
    starts = kv_indptr.to(device=device, dtype=torch.int64)
    lengths = (starts[1:] - starts[:-1]) * k_cache.shape[1]
    blocks = (lengths + BLOCK - 1) // BLOCK
    first = torch.cumsum(blocks, 0) - blocks
    request = torch.repeat_interleave(lengths)
    begins = torch.cumsum(lengths, 0) - lengths
    slots = first[request] * BLOCK + torch.arange(request.numel(), device=device) - begins[request]
    chosen = kv_indices.to(device=device, dtype=torch.int64)
    pools = []
    for cache in (k_cache, v_cache):
        pool = cache.new_zeros(int(blocks.sum()) * BLOCK, *cache.shape[2:])
        pool[slots] = cache[chosen].flatten(0, 1)
        pools.append(pool.view(-1, BLOCK, *cache.shape[2:]))
    most = max(1, int(blocks.max()))
    table = (first[:, None] + torch.arange(most, device=device)).clamp_(max=max(0, int(blocks.sum()) - 1))
    return SimpleNamespace(
        heads=k_cache.shape[2],
        dim=q.shape[2],
        scale=float(scale),
        requests=lengths.numel(),
        longest=int(lengths.max()),
        longest_query=int((qo_indptr[1:] - qo_indptr[:-1]).max()),
        keys=pools[0],
        values=pools[1],
        query_start_loc=qo_indptr.to(device=device, dtype=torch.int32),
        seq_lens=lengths.to(torch.int32),
        block_table=table.to(torch.int32),
    )


def combined(laid: SimpleNamespace, five: int | None) -> torch.Tensor:
    """One cache tensor: halves in dimension ``five`` of five (up to 0.24), or in the last of four."""
    if five is not None:
        return torch.stack((laid.keys, laid.values), five)
    return torch.cat((laid.keys, laid.values), dim=-1).transpose(1, 2)


def metadata(laid: SimpleNamespace, tokens: int, **fields: Any) -> SimpleNamespace:
    """What a backend's ``forward`` reads of a step."""
    return SimpleNamespace(
        num_actual_tokens=tokens,
        max_query_len=laid.longest_query,
        query_start_loc=laid.query_start_loc,
        max_seq_len=laid.longest,
        seq_lens=laid.seq_lens,
        block_table=laid.block_table,
        use_cascade=False,
        causal=True,
        scheduler_metadata=None,
        max_num_splits=0,
        mm_prefix_query_range_tensor=None,
        mm_prefix_range=None,
        mm_prefix_range_tensor=None,
        rswa_prefix_lens=None,
        rswa_window=None,
        rswa_window_tensor=None,
        **fields,
    )


def layer(device: torch.device) -> SimpleNamespace:
    """The scales of an attention layer whose cache is not quantized."""
    one = torch.ones(1, dtype=torch.float32, device=device)
    return SimpleNamespace(
        _q_scale=one, _k_scale=one, _v_scale=one, _q_scale_float=1.0, _k_scale_float=1.0, _v_scale_float=1.0
    )
