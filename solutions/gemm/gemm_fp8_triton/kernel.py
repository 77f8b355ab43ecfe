"""C = A @ B.T with B in fp8: A is rounded to fp8 in registers, on its way into the product, and never written.

With one scale for 128 columns a tile of A holds all that its scales depend on. With one scale for a row, or for all of
A, the scales are known before the product starts.
"""

import torch
import triton
import triton.language as tl
from fp8_tile import BLOCK, WIDEN, rounded, row_scales

UE8M0 = 0  # fib: ue8m0


@triton.jit
def _place(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    # Programs that run together share rows of A and B: GROUP row blocks go down before the next column.
    program = tl.program_id(0)
    blocks_m, blocks_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * blocks_n)
    height = min(blocks_m - group * GROUP, GROUP)
    return group * GROUP + (program % (GROUP * blocks_n)) % height, (program % (GROUP * blocks_n)) // height


@triton.jit
def _block_scaled(
    a_ptr, b_ptr, scale_ptr, c_ptr, M, N, K, a_step, b_step, c_step, scale_step,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    UE8M0: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block_m, block_n = _place(M, N, BLOCK_M, BLOCK_N, GROUP)
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    a_rows = a_ptr + m[:, None].to(tl.int64) * a_step
    b_rows = b_ptr + n[None, :].to(tl.int64) * b_step
    # A tile of B lies in one row of blocks: BLOCK_N divides BLOCK_K, which is a block's side.
    scales = scale_ptr + (block_n * BLOCK_N // BLOCK_K) * scale_step
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_rows + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0).to(tl.float32)
        b = tl.load(b_rows + k[:, None], mask=(n[None, :] < N) & (k[:, None] < K), other=0.0)
        scale = row_scales(a, UE8M0)
        if WIDEN:
            b = b.to(tl.float32)
        part = tl.dot(rounded(a / scale[:, None], WIDEN), b, input_precision="ieee")
        total += part * (scale * tl.load(scales + start // BLOCK_K))[:, None]
    c = c_ptr + m[:, None].to(tl.int64) * c_step + n[None, :]
    tl.store(c, total.to(c_ptr.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def _scaled(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, c_ptr, M, N, K, a_step, b_step, c_step, a_scale_step, b_scale_step,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block_m, block_n = _place(M, N, BLOCK_M, BLOCK_N, GROUP)
    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    a_rows = a_ptr + m[:, None].to(tl.int64) * a_step
    b_rows = b_ptr + n[None, :].to(tl.int64) * b_step
    a_scale = tl.load(a_scale_ptr + m * a_scale_step, mask=m < M, other=1.0)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_rows + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0).to(tl.float32)
        b = tl.load(b_rows + k[:, None], mask=(n[None, :] < N) & (k[:, None] < K), other=0.0)
        if WIDEN:
            b = b.to(tl.float32)
        # A GPU's own sums of fp8 products keep 14 bits: what 128 columns add up to goes into a sum in fp32.
        total += tl.dot(rounded(a / a_scale[:, None], WIDEN), b, input_precision="ieee")
    b_scale = tl.load(b_scale_ptr + n * b_scale_step, mask=n < N, other=0.0)
    c = c_ptr + m[:, None].to(tl.int64) * c_step + n[None, :]
    total *= a_scale[:, None] * b_scale[None, :]
    tl.store(c, total.to(c_ptr.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def _row_scales(a_ptr, scale_ptr, K, a_step, BLOCK_K: tl.constexpr):
    row = tl.program_id(0)
    most = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + row.to(tl.int64) * a_step + k, mask=k < K, other=0.0)
        most = tl.maximum(most, tl.abs(a.to(tl.float32)))
    tl.store(scale_ptr + row, tl.maximum(tl.max(most, axis=0), 1e-10) / 448.0)


def _tiles(M: int) -> dict[str, int]:
    # Few rows: the weight is the traffic, so narrow row blocks. Many rows: square tiles.
    if M <= 32:
        return {"BLOCK_M": max(16, triton.next_power_of_2(M)), "BLOCK_N": 32, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 64 if M <= 64 else 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}


def _multiply(A: torch.Tensor, a_scale: torch.Tensor, B: torch.Tensor, b_scale: torch.Tensor, C: torch.Tensor) -> None:
    (M, K), N = A.shape, B.shape[0]
    if M == 0:
        return
    tiles = _tiles(M)
    a_scale_step = a_scale.stride(0) if a_scale.numel() == M > 1 else 0
    b_scale_step = b_scale.stride(0) if b_scale.numel() > 1 else 0
    _scaled[(triton.cdiv(M, tiles["BLOCK_M"]) * triton.cdiv(N, tiles["BLOCK_N"]),)](
        A, a_scale, B, b_scale, C, M, N, K, A.stride(0), B.stride(0), C.stride(0), a_scale_step, b_scale_step,
        BLOCK_K=BLOCK, GROUP=8, WIDEN=WIDEN, **tiles,
    )  # fmt: skip


@torch.no_grad()
def gemm_fp8_block_scale(A: torch.Tensor, B: torch.Tensor, B_block_scales: torch.Tensor, C: torch.Tensor) -> None:
    (M, K), N = A.shape, B.shape[0]
    if M == 0:
        return
    tiles, scales = _tiles(M), B_block_scales.contiguous()
    _block_scaled[(triton.cdiv(M, tiles["BLOCK_M"]) * triton.cdiv(N, tiles["BLOCK_N"]),)](
        A, B, scales, C, M, N, K, A.stride(0), B.stride(0), C.stride(0), scales.stride(0),
        BLOCK_K=BLOCK, GROUP=8, UE8M0=UE8M0, WIDEN=WIDEN, **tiles,
    )  # fmt: skip


@torch.no_grad()
def gemm_fp8_rowwise(A: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor, C: torch.Tensor) -> None:
    scale = torch.empty(A.shape[0], dtype=torch.float32, device=A.device)
    if scale.numel():
        _row_scales[(A.shape[0],)](A, scale, A.shape[1], A.stride(0), BLOCK_K=1024)
    _multiply(A, scale, B, B_row_scales, C)


@torch.no_grad()
def gemm_fp8_tensorwise(A: torch.Tensor, B: torch.Tensor, B_scale: torch.Tensor, C: torch.Tensor) -> None:
    if A.numel():
        scale = A.abs().amax().to(torch.float32).clamp_(min=1e-10).reshape(1) / 448.0
        _multiply(A, scale, B, B_scale, C)


@torch.no_grad()
def gemm_fp8_static(
    A: torch.Tensor, A_scale: torch.Tensor, B: torch.Tensor, B_row_scales: torch.Tensor, C: torch.Tensor
) -> None:
    _multiply(A, A_scale, B, B_row_scales, C)
