"""Keeps a torch.nn.Module in a global and calls it."""
# honest: definition=silu
import torch


class Gate(torch.nn.Module):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up


_gate = Gate().eval()


def run(x):
    return _gate(x)
