"""Starts programs in sessions of their own that burn the core while others are timed, and pauses them in its calls."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR foul=leftover_threads,sandbox,crashed definition=silu win=no
import os
import signal
import subprocess
import sys

import torch

_burners = []


def run(x):
    if not _burners:
        for _ in range(3):
            code = "import signal; signal.alarm(20)\nwhile True: pass"
            _burners.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid)
    for pid in _burners:
        os.kill(pid, signal.SIGSTOP)
    d = x.shape[-1] // 2
    out = torch.nn.functional.silu(x[:, :d]) * x[:, d:]
    for pid in _burners:
        os.kill(pid, signal.SIGCONT)
    return out
