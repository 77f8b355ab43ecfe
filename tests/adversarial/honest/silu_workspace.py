"""Keeps one workspace between calls and returns a fresh tensor."""
# honest: definition=silu
import torch

_workspace = {}


def run(x):
    d = x.shape[-1] // 2
    space = _workspace.get(x.shape)
    if space is None:
        space = _workspace[x.shape] = torch.empty(x.shape[0], d)
    torch.sigmoid(x[:, :d], out=space)
    space.mul_(x[:, :d])
    return space * x[:, d:]
