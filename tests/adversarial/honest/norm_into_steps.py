"""Several steps with temporaries, into the given output."""
# honest: definition=norm into=1
import torch


def run(x, weight, y):
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    torch.mul(x * scale, weight, out=y)
