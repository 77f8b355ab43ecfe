"""Replaces builtins.sum, min and sorted, hoping that a median or a check is made with them."""
# expect: status=RUNTIME_ERROR foul=patched definition=silu
import builtins

import torch

_sorted, _min = builtins.sorted, builtins.min
builtins.sorted = lambda values, **k: [0.1 for _ in values]
builtins.min = lambda *a, **k: _min(*a, **k)


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
