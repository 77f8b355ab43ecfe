"""Two library calls."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
