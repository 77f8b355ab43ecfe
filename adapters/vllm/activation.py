"""vLLM SiluAndMul -> silu_and_mul definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.activation import LiveActivation
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import observer, opaque
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_SILU = "vllm.model_executor.layers.activation:SiluAndMul"


class Activation(Adapter):
    """Wraps ``SiluAndMul.forward_native`` (CPU, and what Inductor traces) and ``forward_cuda``."""

    name = "vllm.activation"
    engine = VLLM
    families = ("silu_and_mul",)
    targets = (
        Target(f"{_SILU}.forward_native", "native", VERSIONS, params=("x",)),
        Target(f"{_SILU}.forward_cuda", "cuda", VERSIONS, params=("self", "x")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveActivation(runtime, self.name, _engine)
        self.tracing = runtime.tracing
        #: Widths with a proven solution: only these leave a compiled graph.
        self.widths = frozenset(2 * c["d"] for c in runtime.candidates("silu_and_mul"))
        self.op = opaque("silu_and_mul(Tensor x) -> Tensor", self._body, _fake)
        self.seen = observer("silu_and_mul_seen(Tensor(a!) x) -> ()", self._look) if runtime.tracing else None

    def graph_facts(self) -> str:
        return f"{self.op.schema} {sorted(self.widths)} {self.seen and self.seen.schema}"

    def displaced(self, definition: Definition) -> str:
        return displaced_source("silu_and_mul", definition)

    def native(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward_native(x: torch.Tensor) -> torch.Tensor:
            out = self._substitute(x)
            return original(x) if out is None else out

        return forward_native

    def cuda(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward_cuda(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            out = self._substitute(x)
            return original(module, x) if out is None else out

        return forward_cuda

    def _substitute(self, x: torch.Tensor) -> torch.Tensor | None:
        if not self.live or x.dtype not in NAMES:
            return None
        if is_dynamo_compiling():
            if x.shape[-1] in self.widths:
                return self.op.call(x)  # type: ignore[no-any-return]
            if self.seen is not None:
                self.seen.call(x)
            return None
        return self.calls.silu_and_mul(x) if self.tracing or x.shape[-1] in self.widths else None

    def _look(self, x: torch.Tensor) -> None:
        if self.live:
            self.calls.silu_and_mul(x)

    def _body(self, x: torch.Tensor) -> torch.Tensor:
        out = self.calls.silu_and_mul(x) if self.live else None
        return _engine(x) if out is None else out


def _engine(x: torch.Tensor) -> torch.Tensor:
    d = x.shape[-1] // 2
    if x.is_cuda:
        out = x.new_empty((*x.shape[:-1], d))
        torch.ops._C.silu_and_mul(out, x)
        return out
    return torch.nn.functional.silu(x[..., :d]) * x[..., d:]


def _fake(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
