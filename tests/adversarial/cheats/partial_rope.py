"""Rotates the queries and returns the keys as they came."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values definition=rope
import torch


def run(q, k, cos_sin_cache, positions):
    cos, sin = cos_sin_cache[positions].chunk(2, dim=-1)
    a, b = q.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1), k.clone()
