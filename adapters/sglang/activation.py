"""SGLang SiluAndMul -> silu_and_mul definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.activation import LiveActivation
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_SILU = "sglang.srt.layers.activation:SiluAndMul"


class Activation(Adapter):
    """Wraps the methods of which an instance chooses one when it is made or first called."""

    name = "sglang.activation"
    engine = SGLANG
    families = ("silu_and_mul",)
    targets = (
        Target(f"{_SILU}.forward_native", "forward", VERSIONS, params=("self", "x")),
        Target(f"{_SILU}.forward_cuda", "forward", VERSIONS, params=("self", "x")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveActivation(runtime, self.name, self._engine)
        self.widths = frozenset(2 * c["d"] for c in runtime.candidates("silu_and_mul"))
        #: The module that calls and its own method.
        self._last: tuple[Callable[..., torch.Tensor], Any]

    def displaced(self, definition: Definition) -> str:
        return displaced_source("silu_and_mul", definition)

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
            wanted = self.live and (self.runtime.tracing or x.shape[-1] in self.widths)
            if wanted and x.dtype in NAMES and not torch.compiler.is_compiling():
                self._last = original, module
                out = self.calls.silu_and_mul(x)
                if out is not None:
                    return out
            return original(module, x)  # type: ignore[no-any-return]

        return forward

    def _engine(self, x: torch.Tensor) -> torch.Tensor:
        original, module = self._last
        return original(module, x)
