"""RMSNorm, alone and after a residual add: one program a row, the row read once and held in registers."""

import torch
import triton
import triton.language as tl

EPS = 1e-5  # fib: eps


@triton.jit
def _norm_rows(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, x_step, residual_step, out_step, sum_step, n, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < n
    x = tl.load(x_ptr + row * x_step + i, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * residual_step + i, mask=inside, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row * sum_step + i, x.to(sum_ptr.dtype.element_ty), mask=inside)
    weight = tl.load(weight_ptr + i, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / n + eps) * weight
    tl.store(out_ptr + row * out_step + i, y.to(out_ptr.dtype.element_ty), mask=inside)


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


@torch.no_grad()
def rmsnorm(hidden_states: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> None:
    rows, n = hidden_states.shape
    block = triton.next_power_of_2(n)
    _norm_rows[(rows,)](
        hidden_states, hidden_states, weight, output, output, hidden_states.stride(0), 0, output.stride(0), 0, n, EPS,
        ADD=False, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip


@torch.no_grad()
def fused_add_rmsnorm(
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    residual_out: torch.Tensor,
) -> None:
    rows, n = hidden_states.shape
    block = triton.next_power_of_2(n)
    _norm_rows[(rows,)](
        hidden_states, residual, weight, output, residual_out, hidden_states.stride(0), residual.stride(0),
        output.stride(0), residual_out.stride(0), n, EPS, ADD=True, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
