"""vLLM linear layers with fp8 weights -> gemm_fp8 definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.gemm_fp8 import BLOCK_SIZE, FAMILIES, LiveGemmFp8, describe
from fib_plugin.adapters.live.layers import Held
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import opaque
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_METHOD = "vllm.model_executor.layers.quantization.fp8:Fp8LinearMethod"
#: The engine's kernels that read weight and scales as the definitions have them; others pack or pad.
_PLAIN = {
    "CutlassFp8BlockScaledMMKernel",
    "CutlassFP8ScaledMMLinearKernel",
    "ChannelWiseTorchFP8ScaledMMLinearKernel",
    "DeepGemmFp8BlockScaledMMKernel",
    "FlashInferFP8ScaledMMLinearKernel",
    "FlashInferFp8DeepGEMMDynamicBlockScaledKernel",
    "PerTensorTorchFP8ScaledMMLinearKernel",
    "RowWiseTorchFP8ScaledMMLinearKernel",
    "TritonFP8ScaledMMLinearKernel",
    "TritonFp8BlockScaledMMKernel",
}


#: Layer and quant method by the address of a weight: graphs that hold the op outlive adapters.
_owners: dict[int, tuple[Any, Any]] = {}


class GemmFp8(Adapter):
    """Wraps ``Fp8LinearMethod.apply``, which quantizes its input and multiplies; a layer is looked at when loaded.

    Layers that a kernel has packed or padded (Marlin, Humming, AMX, sizes off 16) are left to the engine, and so are
    calls whose input is quantized already. A bias is added to the result.
    """

    name = "vllm.gemm_fp8"
    engine = VLLM
    families = tuple(FAMILIES.values())
    targets = (
        Target(f"{_METHOD}.apply", "apply", VERSIONS, params=("self", "layer", "x", "bias")),
        Target(f"{_METHOD}.process_weights_after_loading", "loaded", VERSIONS, params=("self", "layer")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._apply: Callable[..., torch.Tensor]
        self.calls = LiveGemmFp8(
            runtime, self.name, _held, lambda method, layer, x: self._apply(method, layer, x, None)
        )
        self.op = opaque("gemm_fp8(Tensor x, Tensor weight, Tensor? bias, int n) -> Tensor", self._body, _fake)

    def graph_facts(self) -> str:
        wins = [
            (family, c["N"], c["K"], c["ue8m0"]) for family in self.families for c in self.runtime.candidates(family)
        ]
        return f"{self.op.schema} {'all' if self.runtime.tracing else sorted(wins)}"

    def displaced(self, definition: Definition) -> str:
        return displaced_source("gemm_fp8", definition)

    def loaded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def process_weights_after_loading(method: Any, layer: Any) -> None:
            original(method, layer)
            # A compiler that traces the layer reads this; it must not look into the weights.
            layer.fib_fp8 = self.live and self.calls.meet(method, layer).site is not None
            if layer.fib_fp8:
                _owners[layer.weight.data_ptr()] = method, layer

        return process_weights_after_loading

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original
        attempt = self.calls.attempt

        def apply(method: Any, layer: Any, x: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
            if not self.live:
                return original(method, layer, x, bias)  # type: ignore[no-any-return]
            if torch.compiler.is_compiling():
                if not getattr(layer, "fib_fp8", False) or not isinstance(x, torch.Tensor):
                    return original(method, layer, x, bias)  # type: ignore[no-any-return]
                return self.op.call(x, layer.weight, bias, layer.output_size_per_partition)  # type: ignore[no-any-return]
            out = attempt(method, layer, x)
            if out is None:
                return original(method, layer, x, bias)  # type: ignore[no-any-return]
            return out if bias is None else out + bias

        return apply

    def _body(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, n: int) -> torch.Tensor:
        method, layer = _owners[weight.data_ptr()]
        out = self.calls.attempt(method, layer, x) if self.live else None
        if out is None:
            return self._apply(method, layer, x, bias)
        return out if bias is None else out + bias


def _held(method: Any, layer: Any) -> Held | str:
    import vllm.envs

    if vllm.envs.VLLM_BATCH_INVARIANT:
        return "results are to be the same in every batch (VLLM_BATCH_INVARIANT)"
    kernel = method.fp8_linear
    if type(kernel).__name__ not in _PLAIN:
        return f"weights as {type(kernel).__name__} wants them"
    if method.out_dtype is not layer.orig_dtype:
        return f"results in {method.out_dtype} of activations in {layer.orig_dtype}"
    if getattr(layer, "input_scale_ub", None) is not None:
        return "scales of activations with an upper bound"
    size = layer.output_size_per_partition, layer.input_size_per_partition
    if method.block_quant:
        if list(method.weight_block_size) != BLOCK_SIZE:
            return f"blocks of {method.weight_block_size}"
        # DeepGEMM's part of a kernel made of two is the one that decides what scales look like.
        ue8m0 = bool(getattr(getattr(kernel, "fallback", kernel), "use_deep_gemm_e8m0", False))
        return describe(layer.weight, layer.weight_scale_inv, *size, layer.orig_dtype, "group", ue8m0=ue8m0)
    shared = method.activation_quant_key.scale.group_shape
    activations: Any = "static" if method.act_q_static else "token" if shared.is_per_token() else "tensor"
    return describe(
        layer.weight, layer.weight_scale, *size, layer.orig_dtype, activations, getattr(layer, "input_scale", None)
    )


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, n: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], n))
