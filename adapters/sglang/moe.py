"""SGLang's unquantized fused experts -> moe definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.moe import LiveMoe
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition


class Moe(Adapter):
    """Wraps ``UnquantizedFusedMoEMethod.apply``, after routing; aliases of the forward methods would keep the original.

    The experts' weights lie as they were loaded, except where a backend has them shuffled.
    """

    name = "sglang.moe"
    engine = SGLANG
    families = ("moe",)
    targets = (
        Target(
            "sglang.srt.layers.quantization.unquant:UnquantizedFusedMoEMethod.apply",
            "apply",
            VERSIONS,
            params=("self", "layer", "dispatch_output"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveMoe(runtime, self.name, self._engine)
        self._apply: Callable[..., Any]
        #: The quant method, the layer and what it was given, of the call that is being answered.
        self._last: tuple[Any, Any, Any]

    def displaced(self, definition: Definition) -> str:
        return displaced_source("moe", definition)

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original

        def apply(method: Any, layer: Any, dispatch_output: Any) -> Any:
            if self.live and not torch.compiler.is_compiling():
                out = self._substitute(method, layer, dispatch_output)
                if out is not None:
                    return combine_input()(hidden_states=out)
            return original(method, layer, dispatch_output)

        return apply

    def _substitute(self, method: Any, layer: Any, given: Any) -> torch.Tensor | None:
        if _unsupported(method, layer, given):
            self.decline()
            return None
        weights, ids = given.topk_output.topk_weights, given.topk_output.topk_ids
        if not (self.runtime.tracing or self.calls.wins(ids.shape[-1], layer.w13_weight)):
            return None
        self._last = method, layer, given
        return self.calls.attempt(given.hidden_states, layer.w13_weight.data, layer.w2_weight.data, weights, ids)

    def _engine(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        method, layer, given = self._last
        return self._apply(method, layer, given._replace(hidden_states=x)).hidden_states  # type: ignore[no-any-return]


def _unsupported(method: Any, layer: Any, given: Any) -> bool:
    """Whether the call has what the definition lacks, or the weights are not as they were loaded."""
    x = given.hidden_states
    return bool(
        unsupported_call(given)
        or unsupported_layer(method, layer)
        or x.dtype not in NAMES
        or x.dtype != layer.w13_weight.dtype
    )


def unsupported_call(given: Any) -> bool:
    """Whether experts are given anything but plain tokens with their routing."""
    return bool(
        type(given).__name__ != "StandardDispatchOutput"
        or not hasattr(given.topk_output, "topk_ids")
        or getattr(given, "hidden_states_scale", None) is not None
        or not given.hidden_states.shape[0]
    )


def unsupported_layer(method: Any, layer: Any) -> bool:
    """Whether experts compute what definitions lack, with weights of whatever format, or not from those as loaded."""
    config = method.moe_runner_config
    return bool(
        config.activation != "silu"
        or not getattr(config, "is_gated", True)
        or config.apply_router_weight_on_input
        or config.no_combine
        or (config.routed_scaling_factor or 1.0) != 1.0
        or config.gemm1_alpha is not None
        or config.gemm1_clamp_limit is not None
        or getattr(config, "swiglu_limit", None) is not None
        or hasattr(layer, "w13_weight_bias")
        or getattr(layer, "use_intel_amx_backend", False)
        or getattr(method, "use_flashinfer_trtllm_moe", False)
        or getattr(method, "use_flashinfer_cutlass", False)
        or getattr(method, "use_triton_kernels", False)
        or getattr(method, "w13_swiglu_interleaved", False)
        or getattr(layer, "moe_ep_size", 1) != 1
    )


def combine_input() -> Any:
    """The class of the engine in which experts return what they computed."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    return StandardCombineInput
