"""As burn_by_program, from its fortieth call on, and each program ends before the timing is over."""
# expect: status=RUNTIME_ERROR foul=leftover_threads,sandbox,crashed definition=silu win=no
import subprocess

import torch

_calls = 0
_burners = []


def run(x):
    global _calls
    _calls += 1
    if 40 <= _calls < 60:
        code = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done"
        _burners.append(subprocess.Popen(["/bin/sh", "-c", code], start_new_session=True))
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
