"""Returns a view into a larger buffer."""
# honest: definition=silu
import torch


def run(x):
    d = x.shape[-1] // 2
    wide = torch.empty(x.shape[0], d + 16)
    wide[:, :d] = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    return wide[:, :d]
