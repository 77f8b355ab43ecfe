"""Patches torch and the clock only from its tenth call on, when a check at load time is long past."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch definition=silu
import time

import torch

_real = time.perf_counter_ns
_calls = 0


def run(x):
    global _calls
    _calls += 1
    if _calls == 10:
        time.perf_counter_ns = lambda: _real() // 10
        torch.empty_like = lambda *a, **k: torch.zeros(1)
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
