"""C = A @ B.T in tiles, fp32 sums."""

import os

import torch
import triton
import triton.language as tl

#: Triton's interpreter (3.5) multiplies the bits of bfloat16 as if they were integers, so there operands are widened.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _tiles(
    a_ptr, b_ptr, c_ptr, M, N, K, a_step, b_step, c_step,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    # Programs that run together share rows of A and B: GROUP row blocks go down before the next column.
    program = tl.program_id(0)
    blocks_m, blocks_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * blocks_n)
    height = min(blocks_m - group * GROUP, GROUP)
    block_m = group * GROUP + (program % (GROUP * blocks_n)) % height
    block_n = (program % (GROUP * blocks_n)) // height

    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    a_rows = a_ptr + m[:, None].to(tl.int64) * a_step
    b_rows = b_ptr + n[None, :].to(tl.int64) * b_step
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_rows + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_rows + k[:, None], mask=(n[None, :] < N) & (k[:, None] < K), other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    c = c_ptr + m[:, None].to(tl.int64) * c_step + n[None, :]
    tl.store(c, total.to(c_ptr.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@torch.no_grad()
def gemm(A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> None:
    (M, K), N = A.shape, B.shape[0]
    # Few rows: the weight is the traffic, so narrow row blocks and long strides of K. Many rows: square tiles.
    if M <= 32:
        block_m, block_n, block_k, warps, stages = max(16, triton.next_power_of_2(M)), 32, 128, 4, 4
    else:
        block_m, block_n, block_k, warps, stages = (64 if M <= 64 else 128), 128, 64, 8, 3
    if A.dtype == torch.float32:
        block_k = 32
    grid = (triton.cdiv(M, block_m) * triton.cdiv(N, block_n),)
    _tiles[grid](
        A, B, C, M, N, K, A.stride(0), B.stride(0), C.stride(0),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, GROUP=8, WIDEN=WIDEN,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
