"""Root-mean-square norms (Zhang and Sennrich, arXiv 1910.07467), alone and fused with the residual add."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part, number
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition

#: The eps that names leave out; any other value becomes a name part, since eps is no input.
_USUAL_EPS = 1e-5


def _eps_part(eps: float) -> str:
    return "" if eps == _USUAL_EPS else f"_eps{number(eps)}"


def rmsnorm(hidden_size: int, eps: float, dtype: str = "bfloat16") -> Definition:
    """``output = x * rsqrt(mean(x**2) + eps) * weight`` over rows of ``hidden_states[batch_size, hidden_size]``."""
    return make_definition(
        f"rmsnorm{dtype_part(dtype)}{_eps_part(eps)}_h{hidden_size}",
        "rmsnorm",
        {"batch_size": None, "hidden_size": hidden_size},
        {"hidden_states": (["batch_size", "hidden_size"], dtype), "weight": (["hidden_size"], dtype)},
        {"output": (["batch_size", "hidden_size"], dtype)},
        f"""
        import torch


        @torch.no_grad()
        def run(hidden_states, weight):
            EPS = {number(eps)}
            x = hidden_states.to(torch.float32)
            inv_rms = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + EPS)
            return (x * inv_rms * weight.to(torch.float32)).to(hidden_states.dtype)
        """,
        f"RMSNorm over a hidden size of {hidden_size}, eps {number(eps)}.",
    )


def fused_add_rmsnorm(hidden_size: int, eps: float, dtype: str = "bfloat16") -> Definition:
    """``residual_out = hidden_states + residual``; ``output = rmsnorm(residual_out)``, both [batch_size, hidden_size].

    The norm reads the fp32 sum, not its rounding, as the engines' kernels do.
    """
    rows = ["batch_size", "hidden_size"]
    return make_definition(
        f"fused_add_rmsnorm{dtype_part(dtype)}{_eps_part(eps)}_h{hidden_size}",
        "rmsnorm",
        {"batch_size": None, "hidden_size": hidden_size},
        {"hidden_states": (rows, dtype), "residual": (rows, dtype), "weight": (["hidden_size"], dtype)},
        {"output": (rows, dtype), "residual_out": (rows, dtype)},
        f"""
        import torch


        @torch.no_grad()
        def run(hidden_states, residual, weight):
            EPS = {number(eps)}
            x = hidden_states.to(torch.float32) + residual.to(torch.float32)
            inv_rms = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + EPS)
            output = (x * inv_rms * weight.to(torch.float32)).to(hidden_states.dtype)
            return output, x.to(hidden_states.dtype)
        """,
        f"Residual add followed by RMSNorm over a hidden size of {hidden_size}, eps {number(eps)}.",
    )


SPECS = (
    OpSpec(
        family="rmsnorm", op_type="rmsnorm", key_axes=("batch_size",), inputs=("hidden_states", "weight"), make=rmsnorm
    ),
    OpSpec(
        family="fused_add_rmsnorm",
        op_type="rmsnorm",
        key_axes=("batch_size",),
        inputs=("hidden_states", "residual", "weight"),
        make=fused_add_rmsnorm,
        mutates=("hidden_states", "residual"),
    ),
)
