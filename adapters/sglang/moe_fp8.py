"""SGLang's fused experts with fp8 weights in blocks -> moe_fp8_block_scale definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.gemm_fp8 import BLOCK_SIZE
from fib_plugin.adapters.live.layers import Held
from fib_plugin.adapters.live.moe_fp8 import FAMILY, LiveMoeFp8, describe_experts
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source
from fib_plugin.adapters.sglang.moe import combine_input, unsupported_call, unsupported_layer

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

#: The engine's runners that read weights and scales as they were loaded.
_PLAIN = ("triton", "deep_gemm")


class MoeFp8(Adapter):
    """Wraps ``Fp8MoEMethod.apply``, after routing."""

    name = "sglang.moe_fp8"
    engine = SGLANG
    families = (FAMILY,)
    targets = (
        Target(
            "sglang.srt.layers.quantization.fp8:Fp8MoEMethod.apply",
            "apply",
            VERSIONS,
            params=("self", "layer", "dispatch_output"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveMoeFp8(runtime, self.name, _held, self._engine)
        self._apply: Callable[..., Any]
        #: What the method was given, of the call that is being answered.
        self._given: Any = None

    def displaced(self, definition: Definition) -> str:
        return displaced_source("moe_fp8", definition)

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original

        def apply(method: Any, layer: Any, dispatch_output: Any) -> Any:
            if self.live and not torch.compiler.is_compiling():
                if unsupported_call(dispatch_output):
                    self.decline()
                else:
                    self._given, routed = dispatch_output, dispatch_output.topk_output
                    out = self.calls.attempt(
                        method, layer, dispatch_output.hidden_states, routed.topk_weights, routed.topk_ids
                    )
                    if out is not None:
                        return combine_input()(hidden_states=out)
            return original(method, layer, dispatch_output)

        return apply

    def _engine(self, method: Any, layer: Any, x: torch.Tensor, *routed: torch.Tensor) -> torch.Tensor:
        return self._apply(method, layer, self._given._replace(hidden_states=x)).hidden_states  # type: ignore[no-any-return]


def _held(method: Any, layer: Any) -> Held | str:
    if not method.block_quant or getattr(method, "use_mxfp8", False) or getattr(method, "is_fp4_expert", False):
        return "experts' weights without fp8 scales by blocks"
    if list(method.quant_config.weight_block_size) != BLOCK_SIZE:
        return f"experts' blocks of {method.quant_config.weight_block_size}"
    runner = getattr(getattr(method, "runner", None), "runner_backend", None)
    # The CUTLASS experts go past the runner, and bring their workspace along.
    if hasattr(method, "ab_strides1") or str(getattr(runner, "value", runner)) not in _PLAIN:
        return f"experts' weights as {'cutlass' if hasattr(method, 'ab_strides1') else runner} wants them"
    if unsupported_layer(method, layer):
        return "experts with another activation, a bias, a factor, weights on their input, or in several processes"
    scales = layer.w13_weight_scale_inv, layer.w2_weight_scale_inv
    return describe_experts(
        layer.w13_weight,
        scales[0],
        layer.w2_weight,
        scales[1],
        method.moe_runner_config.top_k,
        method.moe_runner_config.params_dtype or torch.bfloat16,
        ue8m0=any(getattr(each, "format_ue8m0", False) for each in scales),
    )
