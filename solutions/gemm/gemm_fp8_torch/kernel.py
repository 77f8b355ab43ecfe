"""C = A @ B.T with B in fp8: A is rounded to fp8, then torch multiplies, scaled (GPU, bfloat16) or dequantized."""

import torch
from fp8_blocks import dequantized, in_fp8, rounded, scale_of
from torch.nn.functional import linear

UE8M0 = 0  # fib: ue8m0


def _product(A: torch.Tensor, scale: torch.Tensor, B: torch.Tensor, b_scale: torch.Tensor) -> torch.Tensor:
    """``scale`` [M, 1] or one number, ``b_scale`` [N] or one number."""
    a = in_fp8(A, scale)
    if A.is_cuda and A.dtype == torch.bfloat16 and A.numel() and B.shape[0] % 16 == 0 and B.shape[1] % 16 == 0:
        if scale.numel() == b_scale.numel() == 1:
            return torch._scaled_mm(a, B.t(), scale.reshape(()), b_scale.reshape(()), out_dtype=A.dtype)
        rows = scale.expand(A.shape[0], 1).contiguous()
        return torch._scaled_mm(a, B.t(), rows, b_scale.expand(B.shape[0]).reshape(1, -1), out_dtype=A.dtype)
    weight = (B.to(torch.float32) * b_scale.unsqueeze(-1)).to(A.dtype)
    return linear((a.to(torch.float32) * scale).to(A.dtype), weight)


@torch.no_grad()
def gemm_fp8_block_scale(A: torch.Tensor, B: torch.Tensor, B_block_scales: torch.Tensor) -> torch.Tensor:
    return linear(rounded(A, UE8M0), dequantized(B, B_block_scales, A.dtype))


@torch.no_grad()
def gemm_fp8_rowwise(A: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor) -> torch.Tensor:
    return _product(A, scale_of(A.abs().amax(dim=-1, keepdim=True), UE8M0), B, B_row_scales)


@torch.no_grad()
def gemm_fp8_tensorwise(A: torch.Tensor, B: torch.Tensor, B_scale: torch.Tensor) -> torch.Tensor:
    return _product(A, scale_of(A.abs().amax() if A.numel() else A.new_zeros(()), UE8M0), B, B_scale)


@torch.no_grad()
def gemm_fp8_static(
    A: torch.Tensor, A_scale: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor
) -> torch.Tensor:
    return _product(A, A_scale, B, B_row_scales)
