"""Linear layers with fp8 (e4m3) weights: activations are quantized inside, as engines do it, and multiplied.

Families differ by what has a scale of its own (tensor-, row- and block-wise scaling, Micikevicius et al., arXiv
2209.05433; blocks as in DeepSeek-V3, arXiv 2412.19437, section 3.3). The names of the scales tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import Spec, make_definition
from fib_plugin.schema import Definition

#: Rows and columns of a weight that share a scale; the columns of an activation's row that do.
BLOCK = 128

#: Shared by the references of fp8 families: a value that is not zero fills the format up to its largest number.
QUANTIZE = """
import torch

FP8_MAX = 448.0
UE8M0 = {ue8m0}


def quantized(x, scale):
    return (x / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(torch.float32)


def scale_of(amax):
    scale = amax.clamp(min=1e-10) / FP8_MAX
    return torch.exp2(torch.ceil(torch.log2(scale))) if UE8M0 else scale
"""

#: For activations in groups and weights in blocks; the last ones may be smaller.
BLOCKWISE = """
BLOCK = {block}


def rounded(x):
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % BLOCK))
    groups = padded.unflatten(-1, (-1, BLOCK))
    scale = scale_of(groups.abs().amax(dim=-1, keepdim=True))
    return (quantized(groups, scale) * scale).flatten(-2)[..., : x.shape[-1]]


def dequantized(weight, scales):
    rows, columns = weight.shape
    full = scales.repeat_interleave(BLOCK, dim=0)[:rows].repeat_interleave(BLOCK, dim=1)[:, :columns]
    return weight.to(torch.float32) * full
"""

_BLOCK_SCALE = """

@torch.no_grad()
def run(A, B, B_block_scales):
    return (rounded(A.to(torch.float32)) @ dequantized(B, B_block_scales).T).to(A.dtype)
"""

_ROWWISE = """

@torch.no_grad()
def run(A, B, B_row_scales):
    a = A.to(torch.float32)
    scale = scale_of(a.abs().amax(dim=-1, keepdim=True))
    return (quantized(a, scale) @ B.to(torch.float32).T * scale * B_row_scales).to(A.dtype)
"""

_TENSORWISE = """

@torch.no_grad()
def run(A, B, B_scale):
    a = A.to(torch.float32)
    scale = scale_of(a.abs().amax() if a.numel() else a.new_zeros(()))
    return (quantized(a, scale) @ B.to(torch.float32).T * scale * B_scale).to(A.dtype)
"""

_STATIC = """

@torch.no_grad()
def run(A, A_scale, B, B_row_scales):
    a = quantized(A.to(torch.float32), A_scale)
    return (a @ B.to(torch.float32).T * A_scale * B_row_scales).to(A.dtype)
"""


def blocks(size: int) -> int:
    """How many blocks a side of ``size`` has."""
    return -(-size // BLOCK)


def _gemm(
    stem: str,
    n: int,
    k: int,
    dtype: str,
    more_axes: Mapping[str, int],
    inputs: Mapping[str, Spec],
    reference: str,
    what: str,
) -> Definition:
    return make_definition(
        f"{stem}{dtype_part(dtype)}_n{n}_k{k}",
        "gemm",
        {"M": None, "N": n, "K": k, **more_axes},
        inputs,
        {"C": (["M", "N"], dtype)},
        reference,
        f"C = A @ B.T with a weight in fp8 e4m3, N={n}, K={k}: {what}.",
    )


def gemm_fp8_block_scale(n: int, k: int, dtype: str = "bfloat16", ue8m0: bool = False) -> Definition:
    """A [M, K] in ``dtype``, quantized in groups of 128 along K; B [N, K] fp8; B_block_scales [N/128, K/128] float32.

    Args:
        ue8m0: scales of A are rounded up to powers of two, as DeepGEMM's kernels want them.
    """
    fp8: Spec = (["N", "K"], "float8_e4m3fn")
    return _gemm(
        f"gemm_fp8_block_scale{'_ue8m0' if ue8m0 else ''}",
        n,
        k,
        dtype,
        {"n_blocks": blocks(n), "k_blocks": blocks(k)},
        {"A": (["M", "K"], dtype), "B": fp8, "B_block_scales": (["n_blocks", "k_blocks"], "float32")},
        QUANTIZE.format(ue8m0=ue8m0) + BLOCKWISE.format(block=BLOCK) + _BLOCK_SCALE,
        "one scale for each 128 columns of a row of A (dynamic) and for each block of 128 by 128 of B"
        + (", those of A powers of two" if ue8m0 else ""),
    )


def gemm_fp8_rowwise(n: int, k: int, dtype: str = "bfloat16") -> Definition:
    """A [M, K] in ``dtype``, each row quantized with a scale of its own; B [N, K] fp8; B_row_scales [N] float32."""
    return _gemm(
        "gemm_fp8_rowwise",
        n,
        k,
        dtype,
        {},
        {
            "A": (["M", "K"], dtype),
            "B": (["N", "K"], "float8_e4m3fn"),
            "B_row_scales": (["N"], "float32"),
        },
        QUANTIZE.format(ue8m0=False) + _ROWWISE,
        "one scale for each row of A (a token; dynamic) and of B (an output channel)",
    )


def gemm_fp8_tensorwise(n: int, k: int, dtype: str = "bfloat16") -> Definition:
    """A [M, K] in ``dtype``, quantized with one scale for all of it; B [N, K] fp8; B_scale [1] float32."""
    return _gemm(
        "gemm_fp8_tensorwise",
        n,
        k,
        dtype,
        {"one": 1},
        {"A": (["M", "K"], dtype), "B": (["N", "K"], "float8_e4m3fn"), "B_scale": (["one"], "float32")},
        QUANTIZE.format(ue8m0=False) + _TENSORWISE,
        "one scale for A (dynamic) and one for B",
    )


def gemm_fp8_static(n: int, k: int, dtype: str = "bfloat16") -> Definition:
    """A [M, K] in ``dtype``, quantized with the given A_scale [1]; B [N, K] fp8; B_row_scales [N]; scales float32."""
    return _gemm(
        "gemm_fp8_static",
        n,
        k,
        dtype,
        {"one": 1},
        {
            "A": (["M", "K"], dtype),
            "A_scale": (["one"], "float32"),
            "B": (["N", "K"], "float8_e4m3fn"),
            "B_row_scales": (["N"], "float32"),
        },
        QUANTIZE.format(ue8m0=False) + _STATIC,
        "a scale for A that was calibrated beforehand, one for each row of B (an output channel)",
    )


SPECS = tuple(
    OpSpec(family=make.__name__, op_type="gemm", key_axes=("M",), inputs=inputs, make=make)
    for make, inputs in (
        (gemm_fp8_block_scale, ("A", "B", "B_block_scales")),
        (gemm_fp8_rowwise, ("A", "B", "B_row_scales")),
        (gemm_fp8_tensorwise, ("A", "B", "B_scale")),
        (gemm_fp8_static, ("A", "A_scale", "B", "B_row_scales")),
    )
)
