"""Computes with NumPy."""
# honest: definition=silu
import numpy as np
import torch


def run(x):
    values = x.numpy()
    d = values.shape[-1] // 2
    gate = values[:, :d]
    return torch.from_numpy(gate / (1 + np.exp(-gate)) * values[:, d:])
