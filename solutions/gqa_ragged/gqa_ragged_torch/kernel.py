"""Ragged causal prefill, one request at a time: a batched product per key-value head, keys never repeated."""

import math

import torch
from attend import attend


@torch.no_grad()
def gqa_ragged_prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    sm_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    output = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.full(q.shape[:2], -math.inf, dtype=torch.float32, device=q.device)
    starts, firsts = qo_indptr.tolist(), kv_indptr.tolist()
    for request in range(len(starts) - 1):
        rows, keys = slice(*starts[request : request + 2]), slice(*firsts[request : request + 2])
        if rows.start < rows.stop and keys.start < keys.stop:
            output[rows], lse[rows] = attend(q[rows], k[keys], v[keys], float(sm_scale))
    return output, lse
