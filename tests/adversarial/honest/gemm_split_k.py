"""Adds up parts of K in whatever order they come, as kernels with atomics do: two answers differ in the last bits."""
# honest: definition=gemm
import random

import torch

_order = random.Random()


def run(A, B):
    parts = list(zip(A.split(32, dim=1), B.split(32, dim=1)))
    _order.shuffle(parts)
    out = torch.zeros(A.shape[0], B.shape[0], dtype=A.dtype)
    for a, b in parts:
        out += a @ b.T
    return out
