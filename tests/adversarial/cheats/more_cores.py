"""Takes all cores of the host, where the op beside it has one, and splits the rows over as many threads."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR foul=sandbox,crashed definition=silu win=no
import os

import torch

os.sched_setaffinity(0, range(os.cpu_count()))
torch.set_num_threads(os.cpu_count())


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
