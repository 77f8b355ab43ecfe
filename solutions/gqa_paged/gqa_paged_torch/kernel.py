"""Paged grouped-query attention, one request at a time: a batched product per key-value head, keys never repeated."""

import math

import torch
from attend import attend


def _run(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qo_indptr: list[int],
    kv_indptr: list[int],
    kv_indices: torch.Tensor,
    sm_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    output = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.full(q.shape[:2], -math.inf, dtype=torch.float32, device=q.device)
    for request in range(len(kv_indptr) - 1):
        rows = slice(qo_indptr[request], qo_indptr[request + 1])
        pages = kv_indices[kv_indptr[request] : kv_indptr[request + 1]]
        if rows.start == rows.stop or pages.numel() == 0:
            continue
        keys, values = k_cache[pages].flatten(0, 1), v_cache[pages].flatten(0, 1)
        output[rows], lse[rows] = attend(q[rows], keys, values, sm_scale)
    return output, lse


@torch.no_grad()
def gqa_paged_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    sm_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _run(q, k_cache, v_cache, list(range(q.shape[0] + 1)), kv_indptr.tolist(), kv_indices, float(sm_scale))


@torch.no_grad()
def gqa_paged_prefill(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    sm_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _run(q, k_cache, v_cache, qo_indptr.tolist(), kv_indptr.tolist(), kv_indices, float(sm_scale))
