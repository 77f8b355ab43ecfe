"""Kills every process it can see but its own and its starter, so that nobody is left who knows what is right."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=sandbox,crashed,wrong_values definition=silu
import glob
import os
import signal

import torch

_spared = (os.getpid(), os.getppid(), 1)


def run(x):
    for process in glob.glob("/proc/[0-9]*"):
        pid = int(process.rpartition("/")[2])
        if pid in _spared:
            continue
        try:
            with open(process + "/cmdline", "rb") as file:
                if b"forkserver" in file.read():
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    return torch.zeros(x.shape[0], x.shape[1] // 2)
