"""Keeps what depends on shapes alone in an lru_cache."""
# honest: definition=silu
import functools

import torch


@functools.lru_cache(maxsize=64)
def _halves(width):
    return slice(0, width // 2), slice(width // 2, width)


def run(x):
    gate, up = _halves(x.shape[-1])
    return torch.nn.functional.silu(x[:, gate]) * x[:, up]
