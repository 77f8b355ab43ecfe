"""Asks for more shared memory than the device has; the launch fails silently and old memory is returned."""
# expect: status=INCORRECT_NUMERICAL,RUNTIME_ERROR foul=wrong_values,stale_output,crashed definition=silu needs=cuda language=triton
import torch
import triton
import triton.language as tl


@triton.jit
def _kernel(x, out, d: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, block)
    tile = tl.load(x + row * 2 * d + (at % d)[:, None] + tl.arange(0, 256)[None, :] * 0)
    square = tl.dot(tile.to(tl.float16), tl.trans(tile.to(tl.float16)))
    tl.store(out + row * d + (at % d), tl.sum(square, 1))


def run(x):
    out = torch.empty(x.shape[0], x.shape[1] // 2, device=x.device)
    try:
        _kernel[(x.shape[0],)](x, out, x.shape[1] // 2, 4096)
    except Exception:
        pass
    return out
