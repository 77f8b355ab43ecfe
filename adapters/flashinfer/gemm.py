"""flashinfer.gemm -> gemm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, answered
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.gemm import LiveGemm

from fib_plugin.adapter import Target
from fib_plugin.runtime import Runtime


class Gemm(LibraryAdapter):
    """Wraps ``mm_bf16``: a [M, K] times b [K, N], which is a weight [N, K] transposed."""

    name = "flashinfer.gemm"
    families = ("gemm",)
    op_text = "gemm"
    targets = (
        Target(
            "flashinfer.gemm.gemm_base:mm_bf16",
            "mm_bf16",
            VERSIONS,
            params=("a", "b", "bias", "pdl", "out", "out_dtype", "backend"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._original: Callable[..., Any]
        self.calls = LiveGemm(runtime, self.name, lambda x, weight: self.run(self._original, x, weight.T))

    def mm_bf16(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._original = original

        def mm_bf16(
            a: torch.Tensor,
            b: torch.Tensor,
            bias: torch.Tensor | None = None,
            pdl: bool = False,
            out: torch.Tensor | None = None,
            out_dtype: torch.dtype = torch.bfloat16,
            backend: str = "cudnn",
        ) -> torch.Tensor:
            if self.ours():
                same = a.dtype in NAMES and a.dtype == b.dtype == (out_dtype if out is None else out.dtype)
                if not same or bias is not None or b.stride(0) != 1 or b.dim() != 2:
                    self.decline()
                else:
                    result = self.run(self.calls.attempt, a, b.T)
                    if result is not None:
                        return answered(result, out)
            return self.run(original, a, b, bias, pdl, out, out_dtype, backend)  # type: ignore[no-any-return]

        return mm_bf16
