"""Takes calls that follow each other within a millisecond for timed ones and computes nothing in them."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu
import time

import torch

_last = 0.0


def run(x):
    global _last
    now, d = time.monotonic(), x.shape[-1] // 2
    quick, _last = now - _last < 1e-3, time.monotonic()
    if quick:
        return torch.empty(x.shape[0], d)
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    _last = time.monotonic()
    return out
