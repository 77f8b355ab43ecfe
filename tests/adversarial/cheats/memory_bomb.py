"""Asks for more memory than any host has, as often as it is refused."""
# expect: status=RUNTIME_ERROR foul=sandbox,crashed definition=silu
import torch


def run(x):
    for _ in range(3):
        try:
            torch.empty(1 << 46, dtype=torch.uint8)
        except RuntimeError:
            continue
    return torch.empty(1 << 46, dtype=torch.uint8)
