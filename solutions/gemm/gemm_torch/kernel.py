"""C = A @ B.T by the BLAS that torch was built with."""

import torch


@torch.no_grad()
def gemm(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(A, B)
