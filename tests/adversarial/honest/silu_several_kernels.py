"""Takes five steps, each an operation of its own, in place on a buffer that it owns."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    out = x[:, :d].neg()
    out.exp_()
    out.add_(1.0)
    out.reciprocal_()
    out.mul_(x[:, :d])
    return out.mul_(x[:, d:])
