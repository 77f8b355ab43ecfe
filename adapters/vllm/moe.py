"""vLLM's unquantized fused experts -> moe definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.moe import LiveMoe
from fib_plugin.adapters.vllm.engine import VLLM, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import opaque
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

#: Since when the CPU experts take routed tokens.
_ROUTED = ">=0.30,<0.34"
_FUSED_MOE = "vllm.model_executor.layers.fused_moe"


class Moe(Adapter):
    """Wraps ``UnquantizedFusedMoEMethod.apply``, after routing; the CPU experts route themselves before 0.30.

    The CPU experts pack their weights in place; the originals are kept only where a solution is proven for their
    shape, else a stand-in of the same shape marks the layer. Of the GPU experts only Triton's leave the weights as the
    definition has them: calls of the others are seen and never substituted.
    """

    name = "vllm.moe"
    engine = VLLM
    families = ("moe",)
    targets = (
        Target(
            f"{_FUSED_MOE}.unquantized_fused_moe_method:UnquantizedFusedMoEMethod.apply",
            "apply",
            _ROUTED,
            params=("self", "layer", "x", "topk_weights", "topk_ids", "shared_experts", "shared_experts_input"),
        ),
        Target(
            f"{_FUSED_MOE}.experts.cpu_moe:CPUUnquantizedExperts.process_weights_after_loading",
            "pack",
            _ROUTED,
            params=("self", "layer"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveMoe(runtime, self.name, self._engine)
        self.op = opaque(
            "moe(Tensor x, Tensor topk_weights, Tensor topk_ids, Tensor w13, Tensor w2) -> Tensor", self._body, _fake
        )
        self._apply: Callable[..., Any] | None = None
        self._layers: dict[int, Any] = {}

    def graph_facts(self) -> str:
        wins = sorted((c["hidden_size"], c["intermediate_size"]) for c in self.runtime.candidates("moe"))
        return f"{self.op.schema} {'all' if self.runtime.tracing else wins}"

    def displaced(self, definition: Definition) -> str:
        return displaced_source("moe", definition)

    def pack(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def process_weights_after_loading(experts: Any, layer: Any) -> None:
            marks = self._marks(experts, layer) if self.live else None
            original(experts, layer)
            layer.fib_w13, layer.fib_w2 = marks or (None, None)
            if marks is not None:
                self._layers[layer.fib_w13.data_ptr()] = layer

        return process_weights_after_loading

    def _marks(self, experts: Any, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        w13, w2 = layer.w13_weight.data, layer.w2_weight.data
        if w13.dtype not in NAMES or hasattr(layer, "w13_bias"):
            return None
        if self.calls.wins(experts.moe_config.experts_per_token, w13):
            return w13, w2
        if self.runtime.tracing:
            return w13.new_empty(1).expand(w13.shape), w2.new_empty(1).expand(w2.shape)
        return None

    def _marked(self, method: Any, layer: Any, topk: int) -> torch.Tensor | None:
        """What stands for the layer's weights; on a GPU it is chosen at the first call, after loading."""
        try:
            return layer.fib_w13  # type: ignore[no-any-return]
        except AttributeError:
            pass
        layer.fib_w13 = layer.fib_w2 = None
        w13: Any = getattr(layer, "w13_weight", None)
        w2: Any = getattr(layer, "w2_weight", None)
        backend = getattr(getattr(method, "unquantized_backend", None), "name", "CPU")
        known = isinstance(w13, torch.Tensor) and isinstance(w2, torch.Tensor) and w13.dim() == 3
        if not known or backend == "CPU" or w13.dtype not in NAMES:
            return None
        if backend == "TRITON" and (self.runtime.tracing or self.calls.wins(topk, w13)):
            layer.fib_w13, layer.fib_w2 = w13.data, w2.data
        elif self.runtime.tracing:
            experts, hidden, intermediate = layer.global_num_experts, w13.shape[-1], w2.shape[-1]
            layer.fib_w13 = w13.new_empty(1).expand(experts, 2 * intermediate, hidden)
            layer.fib_w2 = w13.new_empty(1).expand(experts, hidden, intermediate)
        if layer.fib_w13 is not None:
            self._layers[layer.fib_w13.data_ptr()] = layer
        return layer.fib_w13  # type: ignore[no-any-return]

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original

        def apply(
            method: Any,
            layer: Any,
            x: torch.Tensor,
            topk_weights: torch.Tensor,
            topk_ids: torch.Tensor,
            shared_experts: Any = None,
            shared_experts_input: torch.Tensor | None = None,
        ) -> Any:
            w13 = self._marked(method, layer, topk_ids.shape[-1]) if self.live else None
            if w13 is None:
                return original(method, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)
            compiling = torch.compiler.is_compiling()
            if shared_experts is not None or unsupported(layer) or x.dtype != w13.dtype:
                if not compiling:
                    self.decline()
                return original(method, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)
            if compiling:
                return self.op.call(x, topk_weights, topk_ids, w13, layer.fib_w2)
            out = self.calls.attempt(x, w13, layer.fib_w2, topk_weights, topk_ids)
            if out is not None:
                return out
            return original(method, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)

        return apply

    def _body(
        self,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
    ) -> torch.Tensor:
        out = self.calls.attempt(x, w13, w2, topk_weights, topk_ids) if self.live else None
        return self._engine(x, w13, w2, topk_weights, topk_ids) if out is None else out

    def _engine(
        self,
        x: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
    ) -> torch.Tensor:
        layer = self._layers[w13.data_ptr()]
        return self._apply(layer.quant_method, layer, x, topk_weights, topk_ids, None, None)  # type: ignore


def unsupported(layer: Any) -> bool:
    """Whether the layer has what the definition lacks: another activation, expert map, bias, weights on the input."""
    return bool(
        getattr(layer, "w13_bias", None) is not None
        or getattr(layer.activation, "value", layer.activation) != "silu"
        or layer.apply_router_weight_on_input
        or layer.expert_map is not None
    )


def _fake(
    x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
