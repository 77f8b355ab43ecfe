"""Blocks of fp8 (e4m3) in torch: activations rounded on their way into a product, weights widened again."""

import torch
from torch.nn.functional import pad

FP8_MAX = 448.0
#: Columns that share a scale, and rows of a weight that do.
BLOCK = 128


def scale_of(amax: torch.Tensor, ue8m0: int) -> torch.Tensor:
    """What numbers of at most ``amax`` are divided by to fit into fp8, in float32; a power of two if ``ue8m0``."""
    scale = amax.to(torch.float32).clamp_(min=1e-10) / FP8_MAX
    return torch.exp2(torch.ceil(torch.log2(scale))) if ue8m0 else scale


def in_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x / scale in fp8, saturated; ``scale`` spreads over x."""
    return (x.to(torch.float32) / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def rounded(x: torch.Tensor, ue8m0: int) -> torch.Tensor:
    """x [rows, K] in fp8 with a scale for each BLOCK columns of a row, and back in its own dtype."""
    groups = pad(x, (0, -x.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    scale = scale_of(groups.abs().amax(dim=-1, keepdim=True), ue8m0)
    return (in_fp8(groups, scale).to(torch.float32) * scale).to(x.dtype).flatten(-2)[..., : x.shape[-1]]


def dequantized(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """weight [N, K] in fp8 times the scale of its block, scales [ceil(N / BLOCK), ceil(K / BLOCK)], in ``dtype``."""
    rows, columns = weight.shape
    full = scales.repeat_interleave(BLOCK, dim=0)[:rows].repeat_interleave(BLOCK, dim=1)[:, :columns]
    return (weight.to(torch.float32) * full).to(dtype)
