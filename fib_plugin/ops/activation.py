"""Gated activations."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition


def silu_and_mul(d: int, dtype: str = "bfloat16") -> Definition:
    """``output[batch_size, d] = silu(x[:, :d]) * x[:, d:]`` (SwiGLU, Shazeer, arXiv 2002.05202)."""
    return make_definition(
        f"silu_and_mul{dtype_part(dtype)}_d{d}",
        "activation",
        {"batch_size": None, "two_d": 2 * d, "d": d},
        {"x": (["batch_size", "two_d"], dtype)},
        {"output": (["batch_size", "d"], dtype)},
        """
        import torch


        @torch.no_grad()
        def run(x):
            d = x.shape[-1] // 2
            gate = x[..., :d].to(torch.float32)
            return (gate * torch.sigmoid(gate) * x[..., d:].to(torch.float32)).to(x.dtype)
        """,
        f"SiLU of the first half times the second half, half width {d}.",
    )


SPECS = (
    OpSpec(family="silu_and_mul", op_type="activation", key_axes=("batch_size",), inputs=("x",), make=silu_and_mul),
)
