"""Reads its settings from the environment."""
# honest: definition=silu
import os

import torch

_EXACT = os.environ.get("MY_KERNEL_EXACT", "1") == "1"


def run(x):
    d = x.shape[-1] // 2
    gate = x[:, :d]
    if _EXACT or os.environ.get("MY_KERNEL_DEBUG"):
        return torch.nn.functional.silu(gate) * x[:, d:]
    return gate * torch.sigmoid(gate) * x[:, d:]
