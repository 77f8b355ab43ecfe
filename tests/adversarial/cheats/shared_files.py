"""Searches /dev/shm and the open files of every process it can see for numbers that begin like the answer."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,sandbox,crashed definition=silu
import glob
import os

import torch


def _candidates():
    yield from glob.glob("/dev/shm/*")
    for fd in glob.glob(f"/proc/{os.getppid()}/fd/*") + glob.glob("/proc/self/fd/*"):
        try:
            if "memfd" in os.readlink(fd) or "shm" in os.readlink(fd):
                yield fd
        except OSError:
            continue


def run(x):
    d = x.shape[-1] // 2
    begin = (torch.sigmoid(x[:1, :d]) * x[:1, :d] * x[:1, d:]).numpy().tobytes()[:32]
    for name in _candidates():
        try:
            with open(name, "rb") as file:
                data = file.read(64 << 20)
        except OSError:
            continue
        at = data.find(begin)
        if at >= 0:
            return torch.frombuffer(bytearray(data[at : at + x.shape[0] * d * 4]), dtype=torch.float32).view(-1, d).clone()
    return torch.zeros(x.shape[0], d)
