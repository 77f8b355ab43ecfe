"""flashinfer.activation -> silu_and_mul definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, answered
from fib_plugin.adapters.live.activation import LiveActivation
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin.adapter import Target
from fib_plugin.runtime import Runtime


class Activation(LibraryAdapter):
    """Wraps ``silu_and_mul``."""

    name = "flashinfer.activation"
    families = ("silu_and_mul",)
    op_text = "silu_and_mul"
    targets = (
        Target("flashinfer.activation:silu_and_mul", "silu_and_mul", VERSIONS, params=("input", "out", "enable_pdl")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._original: Callable[..., Any]
        self.calls = LiveActivation(runtime, self.name, lambda x: self.run(self._original, x))

    def silu_and_mul(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._original = original

        def silu_and_mul(
            input: torch.Tensor, out: torch.Tensor | None = None, enable_pdl: bool | None = None
        ) -> torch.Tensor:
            if self.ours():
                if input.dtype not in NAMES or (out is not None and out.dtype is not input.dtype):
                    self.decline()
                else:
                    result = self.run(self.calls.silu_and_mul, input)
                    if result is not None:
                        return answered(result, out)
            return self.run(original, input, out, enable_pdl)  # type: ignore[no-any-return]

        return silu_and_mul
