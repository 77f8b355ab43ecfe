"""Tries its variants on the first call, with its own clock, and keeps the fastest."""
# honest: definition=silu
import time

import torch


def _a(x, d):
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]


def _b(x, d):
    gate = x[:, :d]
    return gate * torch.sigmoid(gate) * x[:, d:]


_best = None


def run(x):
    global _best
    d = x.shape[-1] // 2
    if _best is None:
        took = {}
        for variant in (_a, _b):
            start = time.perf_counter()
            for _ in range(20):
                variant(x, d)
            took[variant] = time.perf_counter() - start
        _best = min(took, key=took.get)
    return _best(x, d)
