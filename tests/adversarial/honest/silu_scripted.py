"""Traced by torch.jit when it is imported."""
# honest: definition=silu
import torch


@torch.jit.script
def _silu(x):
    gate, up = torch.chunk(x, 2, -1)
    return torch.nn.functional.silu(gate) * up


def run(x):
    return _silu(x)
