"""RMSNorm, alone and after a residual add, in few tensor ops; sums and products in fp32."""

import torch

EPS = 1e-5  # fib: eps


def _normalise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    # The norm of a row divides by sqrt(n) once per row, where a mean of squares makes another tensor of the row's size.
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return x * mean.add_(EPS).rsqrt_() * weight.to(torch.float32)


@torch.no_grad()
def rmsnorm(hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _normalise(hidden_states.to(torch.float32), weight).to(hidden_states.dtype)


@torch.no_grad()
def fused_add_rmsnorm(
    hidden_states: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = hidden_states.to(torch.float32) + residual
    return _normalise(total, weight).to(hidden_states.dtype), total.to(hidden_states.dtype)
