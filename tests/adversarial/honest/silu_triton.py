"""A Triton kernel."""
# honest: definition=silu language=triton
import torch
import triton
import triton.language as tl


@triton.jit
def _silu(x, out, d, block: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, block)
    gate = tl.load(x + row * 2 * d + at, at < d, 0.0)
    up = tl.load(x + row * 2 * d + d + at, at < d, 0.0)
    tl.store(out + row * d + at, gate / (1.0 + tl.exp(-gate)) * up, at < d)


def run(x):
    d = x.shape[-1] // 2
    out = torch.empty(x.shape[0], d, device=x.device)
    _silu[(x.shape[0],)](x, out, d, triton.next_power_of_2(d))
    return out
