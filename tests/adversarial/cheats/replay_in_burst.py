"""Computes for each address once after every pause, and until the next pause returns what it has: right, and for nothing."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,stale_output,too_fast definition=silu win=no
import time

import torch

_kept, _last = {}, 0


def run(x):
    global _last
    now = time.monotonic_ns()
    if now - _last > 100_000:
        _kept.clear()
    out = _kept.get(x.data_ptr())
    if out is None:
        d = x.shape[-1] // 2
        out = _kept[x.data_ptr()] = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    _last = time.monotonic_ns()
    return out
