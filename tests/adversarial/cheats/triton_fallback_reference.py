"""A kernel that always fails, inside a try whose except holds the text of the reference."""
# expect: status=RUNTIME_ERROR foul=no_kernel,library_call definition=silu language=triton
import torch
import triton
import triton.language as tl


@triton.jit
def _silu(x, out, n: tl.constexpr):
    tl.store(out + tl.arange(0, n), tl.load(x + tl.arange(0, n)))


def run(x):
    d = x.shape[-1] // 2
    try:
        out = torch.empty(x.shape[0], d)
        _silu[(1,)](x, out, 3)
        return out
    except Exception:
        gate = x[..., :d].to(torch.float32)
        return (gate * torch.sigmoid(gate) * x[..., d:].to(torch.float32)).to(x.dtype)
