"""Leaves a process in a session of its own that sleeps until the run is over and would go on working then."""
# expect: status=RUNTIME_ERROR,COMPILE_ERROR foul=sandbox,crashed,leftover_threads definition=silu leaves=fib-daemon
import os
import signal
import time

import torch

if os.fork() == 0:
    os.setsid()
    with open("/proc/self/comm", "w") as _comm:
        _comm.write("fib-daemon")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    while True:
        time.sleep(1)


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
