"""Paged grouped-query attention, one request at a time: a batched product per key-value head, keys never repeated."""

import math

import torch

LOG2_E = 1.0 / math.log(2.0)


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """q [n, heads, d] are the newest tokens of keys and values [m, kv_heads, d]."""
    num_q, heads, d = q.shape
    num_kv, kv_heads, _ = keys.shape
    group = heads // kv_heads
    # [kv_heads, tokens * group, d]: the heads of a group are more rows for the same keys.
    rows = q.to(torch.float32).view(num_q, kv_heads, group, d).transpose(0, 1).reshape(kv_heads, num_q * group, d)
    scores = torch.matmul(rows, keys.to(torch.float32).permute(1, 2, 0)).mul_(sm_scale)
    scores = scores.view(kv_heads, num_q, group, num_kv)
    if num_q > 1:
        unseen = torch.ones(num_q, num_kv, dtype=torch.bool, device=q.device).triu_(num_kv - num_q + 1)
        scores.masked_fill_(unseen[:, None, :], -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    weights = scores.sub_(lse.unsqueeze(-1)).exp_().view(kv_heads, num_q * group, num_kv)
    output = torch.matmul(weights, values.to(torch.float32).transpose(0, 1))
    output = output.view(kv_heads, num_q, group, d).transpose(0, 1).reshape(num_q, heads, d)
    return output.to(q.dtype), lse.transpose(0, 1).reshape(num_q, heads) * LOG2_E


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
        output[rows], lse[rows] = _attend(q[rows].contiguous(), keys, values, sm_scale)
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
