"""A Triton kernel that writes into the same buffer at every call: what it wrote before is still there when it starts."""
# honest: definition=silu language=triton
import torch
import triton
import triton.language as tl

_kept = {}


@triton.jit
def _silu_and_mul(x, out, d: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, block)
    keep = at < d
    gate = tl.load(x + row * 2 * d + at, mask=keep)
    up = tl.load(x + row * 2 * d + d + at, mask=keep)
    tl.store(out + row * d + at, gate / (1 + tl.exp(-gate)) * up, mask=keep)


def run(x):
    rows, d = x.shape[0], x.shape[1] // 2
    if rows not in _kept:
        _kept[rows] = torch.empty(rows, d, dtype=x.dtype, device=x.device)
    out = _kept[rows]
    _silu_and_mul[(rows,)](x, out, d, triton.next_power_of_2(d))
    return out
