"""Starts processes that burn all cores except while its own calls run, so that the op beside it looks slow."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR foul=sandbox,crashed,leftover_threads definition=silu win=no
import mmap
import os
import signal
import time

import torch

_flag = mmap.mmap(-1, 1)
for _ in range(4):
    if os.fork() == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        while True:
            if _flag[0]:
                time.sleep(0.0001)


def run(x):
    _flag[0] = 1
    d = x.shape[-1] // 2
    for _ in range(3):
        out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    _flag[0] = 0
    return out
