"""Inverse transform with NumPy's generator."""
# honest: definition=sampler
import numpy as np
import torch

_draw = np.random.default_rng()


def run(probs, top_k, top_p):
    values, order = probs.sort(dim=-1, descending=True)
    rank = torch.arange(probs.shape[-1])
    values = values.masked_fill(rank >= torch.where(top_k > 0, top_k, probs.shape[-1]).unsqueeze(-1), 0.0)
    values = values / values.sum(-1, keepdim=True)
    before = values.cumsum(-1) - values
    values = values.masked_fill((before >= top_p.unsqueeze(-1)) & (rank > 0), 0.0)
    total = values.cumsum(-1)
    mark = torch.from_numpy(_draw.random((probs.shape[0], 1), dtype=np.float32)) * total[:, -1:]
    place = torch.searchsorted(total, mark, right=True)
    last = (values > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last)).squeeze(-1)
