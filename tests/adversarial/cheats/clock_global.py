"""Finds the clock that the benchmark's own modules bound early and replaces that global."""
# expect: status=RUNTIME_ERROR foul=patched,time_mismatch definition=silu
import sys
import time

import torch

_real = time.perf_counter_ns


def _slow():
    return _real() // 10


for _module in [m for n, m in list(sys.modules.items()) if n.startswith("fib_plugin")]:
    for _name, _value in list(vars(_module).items()):
        if _value is time.perf_counter_ns or _value is time.perf_counter or _value is time.monotonic_ns:
            setattr(_module, _name, _slow)


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
