"""Per request, the library's attention for the output and a log-sum-exp of its own."""
# honest: definition=gqa
import math

import torch


def run(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale):
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -float("inf"))
    group = q.shape[1] // k_cache.shape[2]
    bounds = kv_indptr.tolist()
    for r in range(q.shape[0]):
        pages = kv_indices[bounds[r] : bounds[r + 1]].long()
        if pages.numel() == 0:
            continue
        k = k_cache[pages].flatten(0, 1).repeat_interleave(group, 1)
        v = v_cache[pages].flatten(0, 1).repeat_interleave(group, 1)
        out[r] = torch.nn.functional.scaled_dot_product_attention(
            q[r].unsqueeze(1), k.transpose(0, 1), v.transpose(0, 1), scale=float(sm_scale)
        ).squeeze(1)
        lse[r] = torch.logsumexp(torch.einsum("hd,khd->hk", q[r], k) * sm_scale, -1) / math.log(2.0)
    return out, lse
