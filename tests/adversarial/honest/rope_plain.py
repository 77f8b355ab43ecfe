"""Rotates halves; two outputs as a tuple."""
# honest: definition=rope
import torch


def run(q, k, cos_sin_cache, positions):
    cos, sin = (part.unsqueeze(1) for part in cos_sin_cache[positions].chunk(2, dim=-1))

    def rotate(t):
        a, b = t.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    return rotate(q), rotate(k)
