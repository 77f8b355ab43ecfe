"""Causal grouped-query attention of one request: a batched product per key-value head, keys never repeated."""

import math

import torch

LOG2_E = 1.0 / math.log(2.0)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """q [n, heads, d] are the newest tokens of keys and values [m, kv_heads, d]; n is at most m.

    Returns:
        output [n, heads, d] in q's dtype, and the base 2 log-sum of the scores [n, heads] in float32.
    """
    num_q, heads, d = q.shape
    num_kv, kv_heads, _ = keys.shape
    group = heads // kv_heads
    # [kv_heads, tokens * group, d]: the heads of a group are more rows for the same keys.
    rows = q.to(torch.float32).reshape(num_q, kv_heads, group, d).transpose(0, 1).reshape(kv_heads, num_q * group, d)
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
