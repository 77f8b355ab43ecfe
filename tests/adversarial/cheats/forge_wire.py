"""Finds the wire among its open descriptors and sends forged replies ahead of the worker's own."""
# expect: status=RUNTIME_ERROR,INCORRECT_NUMERICAL foul=crashed,time_mismatch,patched,wrong_values definition=silu
import os
import socket
import stat
import struct

import msgspec
import torch

_calls = 0


def _forge():
    for fd in range(3, 64):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            line = socket.socket(fileno=os.dup(fd))
            for tag, fields in (("Sampled", {"ns": [1.0]}), ("Timed", {"solution_ns": [1.0] * 9, "baseline_ns": [9e9] * 9})):
                data = msgspec.msgpack.encode({"type": tag, **fields})
                line.sendall(struct.pack("<I", len(data)) + data)
        except OSError:
            continue


def run(x):
    global _calls
    _calls += 1
    if _calls == 3:
        _forge()
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
