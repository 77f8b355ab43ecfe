"""SGLang linear layers with fp8 weights -> gemm_fp8 definitions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.gemm_fp8 import BLOCK_SIZE, FAMILIES, LiveGemmFp8, describe
from fib_plugin.adapters.live.layers import Held
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source

from fib_plugin import ops
from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

#: The engine's block-wise kernels that read weight and scales as they were loaded.
_PLAIN = (
    "triton_w8a8_block_fp8_linear",
    "deepgemm_w8a8_block_fp8_linear_with_fallback",
    "cutlass_w8a8_block_fp8_linear_with_fallback",
    "flashinfer_gemm_w8a8_block_fp8_linear_with_fallback",
    "flashinfer_deepgemm_w8a8_block_fp8_linear_with_fallback",
)


class GemmFp8(Adapter):
    """Wraps ``Fp8LinearMethod.apply``, which quantizes its input and multiplies.

    Layers with MXFP8 scales or with weights packed for Marlin or AMX are left to the engine, and so are calls whose
    input a fused norm has quantized already. A bias is added to the result.
    """

    name = "sglang.gemm_fp8"
    engine = SGLANG
    families = tuple(FAMILIES.values())
    targets = (
        Target(
            "sglang.srt.layers.quantization.fp8:Fp8LinearMethod.apply",
            "apply",
            VERSIONS,
            params=("self", "layer", "x", "bias"),
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._apply: Callable[..., torch.Tensor]
        self.calls = LiveGemmFp8(
            runtime, self.name, _held, lambda method, layer, x: self._apply(method, layer, x, None)
        )

    def displaced(self, definition: Definition) -> str:
        family = ops.family_of(definition)
        return displaced_source("gemm_fp8_block_scale" if _by_blocks(family) else "gemm_fp8", definition)

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original
        attempt = self.calls.attempt

        def apply(method: Any, layer: Any, x: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
            if not self.live or torch.compiler.is_compiling():
                return original(method, layer, x, bias)  # type: ignore[no-any-return]
            out = attempt(method, layer, x)
            if out is None:
                return original(method, layer, x, bias)  # type: ignore[no-any-return]
            return out if bias is None else out + bias

        return apply


def _by_blocks(family: ops.OpSpec | None) -> bool:
    return family is not None and family.family == FAMILIES["group"]


def _held(method: Any, layer: Any) -> Held | str:
    if method.use_marlin:
        return "weights packed for Marlin"
    if getattr(layer, "use_intel_amx_backend", False):
        return "weights packed for AMX"
    if getattr(method, "use_mxfp8", False) or getattr(layer, "block_fp8_mxfp8_ready", False):
        return "scales of MXFP8"
    size = layer.output_size_per_partition, layer.input_size_per_partition
    input_scale = getattr(layer, "input_scale", None)
    if not method.block_quant:
        activations: Any = "token" if input_scale is None else "static"
        return describe(layer.weight, layer.weight_scale, *size, layer.orig_dtype, activations, input_scale)
    if list(method.quant_config.weight_block_size) != BLOCK_SIZE:
        return f"blocks of {method.quant_config.weight_block_size}"
    kernel: Any = method.w8a8_block_fp8_linear
    options: dict[str, Any] = {}
    while isinstance(kernel, functools.partial):
        kernel, options = kernel.func, {**kernel.keywords, **options}
    if kernel.__name__ not in _PLAIN:
        return f"weights as {kernel.__name__} wants them"
    scales = layer.weight_scale_inv
    ue8m0 = bool(options.get("act_scale_ue8m0") or getattr(scales, "format_ue8m0", False))
    return describe(layer.weight, scales, *size, layer.orig_dtype, "group", ue8m0=ue8m0)
