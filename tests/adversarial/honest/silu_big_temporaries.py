"""Allocates 64 MiB that it hardly needs."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    space = torch.empty(16 << 20)
    part = space[: x.shape[0] * d].view(x.shape[0], d)
    torch.sigmoid(x[:, :d], out=part)
    return part * x[:, :d] * x[:, d:]
