"""Right and slower still: it sleeps for a millisecond in each call."""
# honest: definition=silu
import time

import torch


def run(x):
    time.sleep(0.001)
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
