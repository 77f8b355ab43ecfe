"""Rotates queries and keys in one tensor and returns views of it by name."""
# honest: definition=rope
import torch


def run(q, k, cos_sin_cache, positions):
    cos, sin = (part.unsqueeze(1) for part in cos_sin_cache[positions].chunk(2, dim=-1))
    both = torch.cat((q, k), dim=1)
    a, b = both.chunk(2, dim=-1)
    done = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return {"q_out": done[:, : q.shape[1]], "k_out": done[:, q.shape[1] :]}
