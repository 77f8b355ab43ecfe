"""Kills the other children of its parent, among them the one that times the displaced op."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=sandbox,crashed,wrong_values definition=silu
import glob
import os
import signal

import torch


def run(x):
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat) as file:
                pid, rest = int(stat.split("/")[2]), file.read().rpartition(")")[2].split()
            if int(rest[1]) == os.getppid() and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    return torch.zeros(x.shape[0], x.shape[1] // 2)
