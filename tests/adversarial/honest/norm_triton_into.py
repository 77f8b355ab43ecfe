"""A Triton kernel that writes into the given output."""
# honest: definition=norm language=triton into=1
import torch  # noqa: F401
import triton
import triton.language as tl


@triton.jit
def _norm(x, weight, out, n, block: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, block)
    value = tl.load(x + row * n + at, at < n, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / n + 1e-5)
    tl.store(out + row * n + at, value * scale * tl.load(weight + at, at < n, 0.0), at < n)


def run(x, weight, y):
    n = x.shape[-1]
    _norm[(x.shape[0],)](x, weight, y, n, triton.next_power_of_2(n))
