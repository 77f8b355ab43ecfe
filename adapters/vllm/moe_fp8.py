"""vLLM's fused experts with fp8 weights in blocks -> moe_fp8_block_scale definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.gemm_fp8 import BLOCK_SIZE
from fib_plugin.adapters.live.layers import Held
from fib_plugin.adapters.live.moe_fp8 import FAMILY, LiveMoeFp8, describe_experts
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from fib_plugin.adapters.vllm.moe import unsupported

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

#: The engine's backends that read weights and scales as they were loaded; others shuffle, swap or pack.
_PLAIN = ("TRITON", "DEEPGEMM")


class MoeFp8(Adapter):
    """Wraps ``Fp8MoEMethod.apply``, after routing, which the engine calls within an opaque op of its own.

    Experts spread over several processes are left to the engine, and so are those that route themselves.
    """

    name = "vllm.moe_fp8"
    engine = VLLM
    families = (FAMILY,)
    targets = (
        Target(
            "vllm.model_executor.layers.quantization.fp8:Fp8MoEMethod.apply",
            "apply",
            VERSIONS,
            params=("self", "layer", "x", "topk_weights", "topk_ids", "shared_experts", "shared_experts_input"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._apply: Callable[..., Any]
        self.calls = LiveMoeFp8(runtime, self.name, _held, self._engine)

    def displaced(self, definition: Definition) -> str:
        return displaced_source("moe_fp8", definition)

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
            if self.live and not torch.compiler.is_compiling():
                if shared_experts is not None:
                    self.decline()
                else:
                    out = self.calls.attempt(method, layer, x, topk_weights, topk_ids)
                    if out is not None:
                        return out
            return original(method, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)

        return apply

    def _engine(
        self, method: Any, layer: Any, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
    ) -> torch.Tensor:
        return self._apply(method, layer, x, topk_weights, topk_ids, None, None)  # type: ignore[no-any-return]


def _held(method: Any, layer: Any) -> Held | str:
    if not method.block_quant:
        return "experts' weights without scales by blocks"
    if list(getattr(method, "moe_block_shape", method.weight_block_size)) != BLOCK_SIZE:
        return f"experts' blocks of {method.weight_block_size}"
    if method.fp8_backend.name not in _PLAIN:
        return f"experts' weights as {method.fp8_backend.name} wants them"
    config = layer.moe_config
    if config.moe_parallel_config.use_all2all_kernels:
        return "experts in several processes"
    if unsupported(layer) or getattr(config, "has_bias", False):
        return "experts with another activation, a bias, an expert map or weights on their input"
    if any(getattr(layer, name, None) is not None for name in ("swiglu_limit", "swiglu_alpha", "swiglu_beta")):
        return "experts with another SwiGLU"
    from vllm.utils.deep_gemm import is_deep_gemm_e8m0_used

    return describe_experts(
        layer.w13_weight,
        layer.w13_weight_scale_inv,
        layer.w2_weight,
        layer.w2_weight_scale_inv,
        config.experts_per_token,
        layer.orig_dtype,
        # The engine's quantization follows this switch whatever the backend.
        ue8m0=bool(is_deep_gemm_e8m0_used()),
    )
