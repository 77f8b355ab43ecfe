"""Calls the garbage collector now and then, and looks at the clock for its own statistics."""
# honest: definition=silu
import gc
import time

import torch

_spent = []


def run(x):
    start = time.perf_counter_ns()
    d = x.shape[-1] // 2
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    _spent.append(time.perf_counter_ns() - start)
    if len(_spent) % 500 == 0:
        gc.collect()
        _spent.clear()
    return out
