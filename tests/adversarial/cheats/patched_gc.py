"""Replaces gc.collect, gc.disable and gc.get_objects, and works in a collector callback."""
# expect: status=RUNTIME_ERROR foul=patched definition=silu
import gc

import torch

gc.collect = lambda *a: 0
gc.disable = lambda: None
gc.get_objects = lambda *a: []


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
