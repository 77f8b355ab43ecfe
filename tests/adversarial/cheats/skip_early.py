"""Learns how many calls come between two pauses and computes the first and the last of them, which may be looked at."""
# expect: status=INCORRECT_NUMERICAL foul=wrong_values,stale_output definition=silu win=no
import time

import torch

_last, _at, _longest, _out = 0, 0, 0, None


def run(x):
    global _last, _at, _longest, _out
    if time.monotonic_ns() - _last > 100_000:
        _longest, _at = max(_longest * 0.98, _at), 0
    _at += 1
    if _at == 1 or _at > 0.4 * _longest or _longest < 8:
        d = x.shape[-1] // 2
        _out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    _last = time.monotonic_ns()
    return _out
