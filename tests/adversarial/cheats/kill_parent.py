"""Kills the process that would judge it."""
# expect: status=RUNTIME_ERROR foul=sandbox,crashed definition=silu
import os
import signal

import torch


def run(x):
    os.kill(os.getppid(), signal.SIGKILL)
    return torch.zeros(x.shape[0], x.shape[1] // 2)
