"""Computes transposed and makes the result contiguous."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    t = x.t().contiguous()
    return (torch.nn.functional.silu(t[:d]) * t[d:]).t().contiguous()
