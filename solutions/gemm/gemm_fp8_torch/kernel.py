"""C = A @ B.T with B in fp8: A is rounded to fp8, then torch multiplies, scaled (GPU, bfloat16) or dequantized."""

import torch
from torch.nn.functional import linear, pad

FP8_MAX = 448.0
BLOCK = 128
UE8M0 = 0  # fib: ue8m0


def _scale(amax: torch.Tensor) -> torch.Tensor:
    scale = amax.to(torch.float32).clamp_(min=1e-10) / FP8_MAX
    return torch.exp2(torch.ceil(torch.log2(scale))) if UE8M0 else scale


def _rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.to(torch.float32) / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def _product(A: torch.Tensor, scale: torch.Tensor, B: torch.Tensor, b_scale: torch.Tensor) -> torch.Tensor:
    """``scale`` [M, 1] or one number, ``b_scale`` [N] or one number."""
    a = _rounded(A, scale)
    if A.is_cuda and A.dtype == torch.bfloat16 and A.numel() and B.shape[0] % 16 == 0 and B.shape[1] % 16 == 0:
        if scale.numel() == b_scale.numel() == 1:
            return torch._scaled_mm(a, B.t(), scale.reshape(()), b_scale.reshape(()), out_dtype=A.dtype)
        rows = scale.expand(A.shape[0], 1).contiguous()
        return torch._scaled_mm(a, B.t(), rows, b_scale.expand(B.shape[0]).reshape(1, -1), out_dtype=A.dtype)
    weight = (B.to(torch.float32) * b_scale.unsqueeze(-1)).to(A.dtype)
    return linear((a.to(torch.float32) * scale).to(A.dtype), weight)


@torch.no_grad()
def gemm_fp8_block_scale(A: torch.Tensor, B: torch.Tensor, B_block_scales: torch.Tensor) -> torch.Tensor:
    (N, K), M = B.shape, A.shape[0]
    groups = pad(A, (0, -K % BLOCK)).view(M, -1, BLOCK)
    scale = _scale(groups.abs().amax(dim=-1, keepdim=True))
    a = (_rounded(groups, scale).to(torch.float32) * scale).to(A.dtype).view(M, -1)[:, :K]
    full = B_block_scales.repeat_interleave(BLOCK, dim=0)[:N].repeat_interleave(BLOCK, dim=1)[:, :K]
    return linear(a, (B.to(torch.float32) * full).to(A.dtype))


@torch.no_grad()
def gemm_fp8_rowwise(A: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor) -> torch.Tensor:
    return _product(A, _scale(A.abs().amax(dim=-1, keepdim=True)), B, B_row_scales)


@torch.no_grad()
def gemm_fp8_tensorwise(A: torch.Tensor, B: torch.Tensor, B_scale: torch.Tensor) -> torch.Tensor:
    return _product(A, _scale(A.abs().amax() if A.numel() else A.new_zeros(())), B, B_scale)


@torch.no_grad()
def gemm_fp8_static(
    A: torch.Tensor, A_scale: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor
) -> torch.Tensor:
    return _product(A, A_scale, B, B_row_scales)
