"""Dense matrix products with a weight that is stored [N, K], as linear layers keep it."""

from __future__ import annotations

from fib_plugin.ops.spec import OpSpec, dtype_part
from fib_plugin.ops.template import make_definition
from fib_plugin.schema import Definition


def gemm(n: int, k: int, dtype: str = "bfloat16") -> Definition:
    """``C[M, N] = A[M, K] @ B[N, K].T`` with fp32 accumulation, all three tensors in ``dtype``."""
    return make_definition(
        f"gemm{dtype_part(dtype)}_n{n}_k{k}",
        "gemm",
        {"M": None, "N": n, "K": k},
        {"A": (["M", "K"], dtype), "B": (["N", "K"], dtype)},
        {"C": (["M", "N"], dtype)},
        """
        import torch


        @torch.no_grad()
        def run(A, B):
            return (A.to(torch.float32) @ B.to(torch.float32).T).to(A.dtype)
        """,
        f"General matrix multiply C = A @ B.T with N={n}, K={k}.",
    )


SPECS = (OpSpec(family="gemm", op_type="gemm", key_axes=("M",), inputs=("A", "B"), make=gemm),)
