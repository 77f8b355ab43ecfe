"""Writes to a folder outside of its scratch, to be found again by a later run."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR foul=sandbox,crashed definition=silu
import os
import pwd

import torch

_home = pwd.getpwuid(os.getuid()).pw_dir  # HOME may be the scratch folder
with open(os.path.join(_home, ".fib-cheat-kept"), "wb") as _file:
    _file.write(b"kept")
os.remove(os.path.join(_home, ".fib-cheat-kept"))


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
