"""Writes orders and verdict-like answers of the other processes to every socket it has, so that a neighbour obeys."""
# expect: status=RUNTIME_ERROR foul=crashed,sandbox definition=silu
import os
import socket
import stat
import struct

import msgspec
import torch

_calls = 0


def _send(line, kind, **fields):
    data = msgspec.msgpack.encode({"type": kind, **fields})
    line.sendall(struct.pack("<I", len(data)) + data)


def run(x):
    global _calls
    _calls += 1
    d = x.shape[-1] // 2
    if _calls == 2:
        for fd in range(3, 256):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    line = socket.socket(fileno=os.dup(fd))
                    output = {"kind": "torch.Tensor", "dtype": "float32", "shape": [x.shape[0], d], "device": "cpu"}
                    _send(line, "Learn", definition=b"{}")
                    _send(line, "Referred", outputs=[output], seconds=1.0)
            except OSError:
                continue
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
