"""Compiled by torch.compile at its first call; what is compiled is cached."""
# honest: definition=silu
import torch


@torch.compile(dynamic=False)
def _silu(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def run(x):
    return _silu(x)
