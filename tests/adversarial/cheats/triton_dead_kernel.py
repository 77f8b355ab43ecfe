"""Launches a Triton kernel whose result is thrown away; torch computes what is returned."""
# expect: status=RUNTIME_ERROR foul=no_kernel,library_call definition=silu language=triton
import torch
import triton
import triton.language as tl


@triton.jit
def _nothing(x, out, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(out + at, tl.load(x + at))


def run(x):
    d = x.shape[-1] // 2
    dead = torch.empty(16)
    _nothing[(1,)](x, dead, 16)
    return x[:, :d] / (1 + torch.exp(-x[:, :d])) * x[:, d:]
