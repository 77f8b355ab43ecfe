"""Splits the rows over a pool of its own that is shut down before it returns."""
# honest: definition=silu
from concurrent.futures import ThreadPoolExecutor

import torch


def run(x):
    d, out = x.shape[-1] // 2, torch.empty(x.shape[0], x.shape[1] // 2)

    def part(rows):
        with torch.inference_mode():  # a mode of each thread, which the engine's workers have on
            torch.mul(torch.nn.functional.silu(x[rows, :d]), x[rows, d:], out=out[rows])

    half = x.shape[0] // 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(part, (slice(0, half), slice(half, None))))
    return out
