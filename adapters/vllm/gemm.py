"""vLLM linear layers and lm_head -> gemm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.gemm import LiveGemm
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import opaque
from fib_plugin.dispatch.reason import Reason
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_UTILS = "vllm.model_executor.layers.utils"


class Gemm(Adapter):
    """Wraps the function that every unquantized linear layer calls: ``(layer, x, weight, bias)``.

    On CPU the engine packs a weight and gives the original away; the original is kept only where a solution is proven
    for its shape, else a stand-in of the same shape marks the layer.
    """

    name = "vllm.gemm"
    engine = VLLM
    families = ("gemm",)
    targets = (
        Target(f"{_UTILS}:dispatch_unquantized_gemm", "choose", VERSIONS),
        Target(
            f"{_UTILS}:dispatch_cpu_unquantized_gemm",
            "pack",
            VERSIONS,
            params=("layer", "remove_weight"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveGemm(runtime, self.name, self._engine)
        self.shapes = None if runtime.tracing else frozenset((c["N"], c["K"]) for c in runtime.candidates("gemm"))
        self._layers: dict[int, torch.nn.Module] = {}
        self._wrapped: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.op = opaque("gemm(Tensor x, Tensor weight, Tensor? bias) -> Tensor", self._body, _fake)

    def graph_facts(self) -> str:
        return f"{self.op.schema} {'all' if self.shapes is None else sorted(self.shapes)}"

    def displaced(self, definition: Definition) -> str:
        return displaced_source("gemm", definition)

    def choose(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def dispatch_unquantized_gemm(*args: Any, **kwargs: Any) -> Callable[..., Any]:
            impl = original(*args, **kwargs)
            wrapped = self._wrapped.get(impl)
            if wrapped is None:
                wrapped = self._wrapped[impl] = self._wrap(impl)
            return wrapped

        return dispatch_unquantized_gemm

    def pack(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
            mark = self._mark(layer.weight) if self.live else None
            original(layer, remove_weight)
            if mark is not None:
                layer.fib_weight = mark
                self._layers[mark.data_ptr()] = layer

        return dispatch_cpu_unquantized_gemm

    def _mark(self, weight: Any) -> torch.Tensor | None:
        if not isinstance(weight, torch.Tensor) or weight.is_meta or weight.dim() != 2 or weight.dtype not in NAMES:
            return None
        if self.calls.wins(weight.shape[0], weight.shape[1], weight.dtype):
            return weight.data
        if self.runtime.tracing:
            return torch.empty(1, dtype=weight.dtype).expand(weight.shape)
        return None

    def _wrap(self, impl: Callable[..., Any]) -> Callable[..., Any]:
        known_site = self.calls.known_site

        def gemm(
            layer: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            if not self.live:
                return impl(layer, x, weight, bias)  # type: ignore[no-any-return]
            # Of all that can be asked this takes least: between an engine's ops nothing of ours is in the caches.
            compiling = is_dynamo_compiling()
            # To ask a module for what it lacks takes longer than all the rest.
            mark = getattr(layer, "fib_weight", None) if compiling else layer.__dict__.get("fib_weight")
            known = weight if mark is None else mark
            if not compiling:
                site = known_site(x, known)
                if site is not None:
                    found: torch.Tensor | None = site.attempt(x.shape[0], (x, known))
                    if found is None:
                        return impl(layer, x, weight, bias)  # type: ignore[no-any-return]
                    return found if bias is None else found + bias.to(found.dtype)
            if known.dim() != 2 or known.shape[1] != x.shape[-1] or not self._wants(known):
                result: torch.Tensor = impl(layer, x, weight, bias)
                return result
            if compiling and x.dtype == known.dtype and x.dtype in NAMES:
                return self.op.call(x, known, bias)  # type: ignore[no-any-return]
            if x.dtype != known.dtype or x.dtype not in NAMES:
                if not compiling:
                    self.decline(Reason.UNSUPPORTED_ARGUMENT)
                return impl(layer, x, weight, bias)  # type: ignore[no-any-return]
            out = self.calls.attempt(x, known)
            if out is None:
                return impl(layer, x, weight, bias)  # type: ignore[no-any-return]
            return out if bias is None else out + bias.to(out.dtype)

        return gemm

    def _wants(self, weight: torch.Tensor) -> bool:
        return self.shapes is None or (weight.shape[0], weight.shape[1]) in self.shapes

    def _body(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.live and x.dtype == weight.dtype:
            out = self.calls.attempt(x, weight)
            if out is not None:
                return out if bias is None else out + bias.to(out.dtype)
        return self._engine(x, weight, bias)

    def _engine(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        layer = self._layers.get(weight.data_ptr())
        if layer is None:
            return torch.nn.functional.linear(x, weight, bias)
        return layer.cpu_linear(x, layer.weight, bias)  # type: ignore[no-any-return,operator]


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
