"""Rounding a tile of activations to fp8 (e4m3) in registers, for the kernels that multiply it with weights in fp8."""

import os

import triton
import triton.language as tl

#: Triton's interpreter (3.5) loses the carry when it rounds to fp8 (31.9 becomes 16): there fp8 is played in float32.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"
#: Columns that share a scale, and rows of a weight that do.
BLOCK = 128


@triton.jit
def row_scales(x, UE8M0: tl.constexpr):
    """What each row of x, [rows, columns] in float32, is divided by to fit into fp8: [rows], powers of two if UE8M0."""
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-10) / 448.0
    if UE8M0:
        scale = tl.exp2(tl.ceil(tl.log2(scale)))
    return scale


@triton.jit
def rounded(x, WIDEN: tl.constexpr):
    """x, in float32 and scaled, in fp8, saturated at 448; if WIDEN the same numbers in float32."""
    x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    if WIDEN:
        # Normals keep 3 bits of mantissa, ties to even; below 2**-6 all are multiples of 2**-9.
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
        return tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, bits.to(tl.float32, bitcast=True))
    else:
        return x.to(tl.float8e4nv)
