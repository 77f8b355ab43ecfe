"""Leaves the log-sum-exp in base e, hoping that only the first output is checked."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=gqa
import torch


def run(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale):
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -float("inf"))
    group = q.shape[1] // k_cache.shape[2]
    for r in range(q.shape[0]):
        pages = kv_indices[int(kv_indptr[r]) : int(kv_indptr[r + 1])].long()
        k = k_cache[pages].flatten(0, 1).repeat_interleave(group, 1)
        v = v_cache[pages].flatten(0, 1).repeat_interleave(group, 1)
        s = torch.einsum("hd,khd->hk", q[r], k) * sm_scale
        out[r] = torch.einsum("hk,khd->hd", s.softmax(-1), v)
        lse[r] = torch.logsumexp(s, -1)
    return out, lse
