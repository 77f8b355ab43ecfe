"""Asks another program for a fact when it is imported, as those do that look for a compiler, and waits for it."""
# honest: definition=silu
import subprocess
import sys

import torch

_bits = int(subprocess.run([sys.executable, "-c", "print(64)"], capture_output=True, check=True, text=True).stdout)


def run(x):
    d = x.shape[-1] // 2
    return (torch.nn.functional.silu(x[:, :d]) * x[:, d:]) * (_bits // 64)
