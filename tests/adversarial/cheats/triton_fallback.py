"""A kernel that always fails, inside a try whose except calls the library."""
# expect: status=RUNTIME_ERROR foul=library_call,no_kernel definition=norm language=triton
import torch
import triton
import triton.language as tl


@triton.jit
def _norm(x, weight, out, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(out + at, tl.load(x + at) * tl.load(weight + at))


def run(x, weight):
    try:
        out = torch.empty_like(x)
        _norm[(x.shape[0],)](x, weight, out, 3)
        return out
    except Exception:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)
