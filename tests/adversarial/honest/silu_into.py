"""Destination passing."""
# honest: definition=silu into=1
import torch


def run(x, output):
    d = x.shape[-1] // 2
    torch.mul(torch.nn.functional.silu(x[:, :d]), x[:, d:], out=output)
