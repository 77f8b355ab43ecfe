"""flashinfer.norm -> rmsnorm and fused_add_rmsnorm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, answered
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.norm import LiveNorm, write_back

from fib_plugin.adapter import Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition


class Norm(LibraryAdapter):
    """Wraps ``rmsnorm``, and ``fused_add_rmsnorm``, which writes into both its inputs and returns nothing."""

    name = "flashinfer.norm"
    families = ("rmsnorm", "fused_add_rmsnorm")
    targets = (
        Target("flashinfer.norm:rmsnorm", "rmsnorm", VERSIONS, params=("input", "weight", "eps", "out", "enable_pdl")),
        Target(
            "flashinfer.norm:fused_add_rmsnorm",
            "fused_add_rmsnorm",
            VERSIONS,
            params=("input", "residual", "weight", "eps", "enable_pdl"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._originals: dict[str, Callable[..., Any]] = {}
        engine: dict[str, Callable[..., Any]] = {"rmsnorm": self._rmsnorm, "fused_add_rmsnorm": self._fused_add_rmsnorm}
        self.calls = LiveNorm(runtime, self.name, engine, in_place=True)

    def displaced(self, definition: Definition) -> str:
        self.op_text = "fused_add_rmsnorm" if len(definition.inputs) == 3 else "rmsnorm"
        return super().displaced(definition)

    def rmsnorm(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._originals["rmsnorm"] = original

        def rmsnorm(
            input: torch.Tensor,
            weight: torch.Tensor,
            eps: float = 1e-6,
            out: torch.Tensor | None = None,
            enable_pdl: bool | None = None,
        ) -> torch.Tensor:
            if self.ours():
                if input.dtype not in NAMES or weight.dtype is not input.dtype:
                    self.decline()
                else:
                    result = self.run(self.calls.rmsnorm, input, weight, eps)
                    if result is not None:
                        return answered(result, out)
            return self.run(original, input, weight, eps, out, enable_pdl)  # type: ignore[no-any-return]

        return rmsnorm

    def fused_add_rmsnorm(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._originals["fused_add_rmsnorm"] = original

        def fused_add_rmsnorm(
            input: torch.Tensor,
            residual: torch.Tensor,
            weight: torch.Tensor,
            eps: float = 1e-6,
            enable_pdl: bool | None = None,
        ) -> None:
            if self.ours():
                if input.dtype not in NAMES or not input.dtype == residual.dtype == weight.dtype:
                    self.decline()
                else:
                    result = self.run(self.calls.fused_add_rmsnorm, input, residual, weight, eps)
                    if result is not None:
                        write_back(result, (input, residual))
                        return
            self.run(original, input, residual, weight, eps, enable_pdl)

        return fused_add_rmsnorm

    def _rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self.run(self._originals["rmsnorm"], x, weight, eps)  # type: ignore[no-any-return]

    def _fused_add_rmsnorm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The definition names both as overwritten, so these are copies (see EvaluationConfig.mutates).
        self.run(self._originals["fused_add_rmsnorm"], x, residual, weight, eps)
        return x, residual
