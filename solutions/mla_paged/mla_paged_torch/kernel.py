"""Decode of multi-head latent attention, one request at a time: all heads are rows for the same latent keys."""

import math

import torch

LOG2_E = 1.0 / math.log(2.0)


@torch.no_grad()
def mla_paged_decode(
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    sm_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    output = torch.zeros(q_nope.shape, dtype=q_nope.dtype, device=q_nope.device)
    lse = torch.full(q_nope.shape[:2], -math.inf, dtype=torch.float32, device=q_nope.device)
    indptr = kv_indptr.tolist()
    for request in range(len(indptr) - 1):
        pages = kv_indices[indptr[request] : indptr[request + 1]]
        if pages.numel() == 0:
            continue
        latent = ckv_cache[pages].flatten(0, 1).to(torch.float32)
        rotary = kpe_cache[pages].flatten(0, 1).to(torch.float32)
        scores = torch.matmul(q_nope[request].to(torch.float32), latent.T)
        scores.addmm_(q_pe[request].to(torch.float32), rotary.T).mul_(float(sm_scale))
        top = torch.logsumexp(scores, dim=-1)
        output[request] = torch.matmul(scores.sub_(top[:, None]).exp_(), latent).to(q_nope.dtype)
        lse[request] = top * LOG2_E
    return output, lse
