"""Replaces time.perf_counter, perf_counter_ns and monotonic by clocks that run at a tenth of the speed."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch definition=silu
import time

import torch

_real, _real_ns, _monotonic = time.perf_counter, time.perf_counter_ns, time.monotonic
time.perf_counter = lambda: _real() / 10
time.perf_counter_ns = lambda: _real_ns() // 10
time.monotonic = lambda: _monotonic() / 10


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
