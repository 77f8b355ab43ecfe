"""SGLang linear layers and lm_head -> gemm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.gemm import LiveGemm
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source, weight_of
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_LINEAR = "sglang.srt.layers.quantization.unquant:UnquantizedLinearMethod"
_LM_HEAD = "sglang.srt.layers.logits_processor:LogitsProcessor._compute_lm_head"
_LM_HEAD_PARAMS = ("self", "hidden_states", "lm_head", "embedding_bias")


class Gemm(Adapter):
    """Wraps the methods of unquantized linear layers, and the one that multiplies with lm_head."""

    name = "sglang.gemm"
    engine = SGLANG
    families = ("gemm",)
    targets = (
        Target(f"{_LINEAR}.apply", "apply", VERSIONS, params=("self", "layer", "x", "bias")),
        Target(
            f"{_LINEAR}.apply_into",
            "apply_into",
            ">=0.5.17,<0.5.24",
            params=("self", "layer", "x", "output", "bias"),
        ),
        Target(
            f"{_LINEAR}.apply_with_addend",
            "apply_with_addend",
            ">=0.5.20,<0.5.24",
            params=("self", "layer", "x", "addend", "bias"),
        ),
        Target(_LM_HEAD, "lm_head", ">=0.5.11,<0.5.23", params=_LM_HEAD_PARAMS),
        Target(_LM_HEAD, "lm_head", ">=0.5.23,<0.5.24", params=(*_LM_HEAD_PARAMS, "out")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveGemm(runtime, self.name, self._engine)
        self.shapes = None if runtime.tracing else frozenset((c["N"], c["K"]) for c in runtime.candidates("gemm"))
        self._apply: Callable[..., torch.Tensor] | None = None
        #: By a weight's address: the quant method and the layer that the engine's op needs.
        self._owners: dict[int, tuple[Any, Any]] = {}

    def displaced(self, definition: Definition) -> str:
        return displaced_source("gemm", definition)

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._apply = original

        def apply(method: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            out = self._substitute(x, layer, method)
            if out is None:
                return original(method, layer, x, bias)  # type: ignore[no-any-return]
            return out if bias is None else out + bias

        return apply

    def apply_into(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply_into(
            method: Any, layer: Any, x: torch.Tensor, output: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            out = self._substitute(x, layer, method)
            if out is None:
                return original(method, layer, x, output, bias)  # type: ignore[no-any-return]
            return output.copy_(out) if bias is None else torch.add(out, bias, out=output)

        return apply_into

    def apply_with_addend(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply_with_addend(
            method: Any, layer: Any, x: torch.Tensor, addend: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            out = self._substitute(x, layer, method)
            if out is None:
                return original(method, layer, x, addend, bias)  # type: ignore[no-any-return]
            return addend.add_(out if bias is None else out + bias)

        return apply_with_addend

    def lm_head(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_lm_head(
            processor: Any,
            hidden_states: torch.Tensor,
            lm_head: Any,
            embedding_bias: torch.Tensor | None = None,
            **buffers: Any,
        ) -> torch.Tensor:
            if self.live and not _plain_matmul(processor, lm_head):
                self.decline()
            else:
                out = self._substitute(hidden_states, lm_head)
                if out is not None:
                    return out
            return original(  # type: ignore[no-any-return]
                processor, hidden_states, lm_head, embedding_bias, **buffers
            )

        return compute_lm_head

    def _substitute(self, x: torch.Tensor, layer: Any, method: Any = None) -> torch.Tensor | None:
        """x times the layer's weight transposed by a solution, or None when the engine's op must answer."""
        # Of all that can be asked this takes least: between an engine's ops nothing of ours is in the caches.
        if not self.live or is_dynamo_compiling():
            return None
        weight = weight_of(layer)
        # For AMX the engine packs a weight in place. A module is slow to say that it lacks something.
        packed = layer.__dict__.get("use_intel_amx_backend", False)
        site = None if packed else self.calls.known_site(x, weight)
        if site is not None:
            found: torch.Tensor | None = site.attempt(x.shape[0], (x, weight))
            return found
        if weight.dim() != 2 or weight.shape[1] != x.shape[-1] or not self._wants(weight):
            return None
        if x.dtype != weight.dtype or x.dtype not in NAMES or packed:
            self.decline()
            return None
        if method is not None and weight.data_ptr() not in self._owners:
            self._owners[weight.data_ptr()] = (method, layer)
        return self.calls.attempt(x, weight)

    def _wants(self, weight: torch.Tensor) -> bool:
        return self.shapes is None or (weight.shape[0], weight.shape[1]) in self.shapes

    def _engine(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        owner = self._owners.get(weight.data_ptr())
        if owner is None or self._apply is None:
            return torch.matmul(x, weight.T)
        return self._apply(*owner, x, None)


def _plain_matmul(processor: Any, lm_head: Any) -> bool:
    """Whether the engine would multiply with lm_head's own weight in its own dtype: no adapter, no other precision."""
    return (
        type(getattr(lm_head, "quant_method", None)).__name__
        in ("NoneType", "UnquantizedEmbeddingMethod", "UnquantizedLinearMethod")
        and isinstance(getattr(lm_head, "weight", None), torch.Tensor)
        and not hasattr(lm_head, "set_lora")
        and not getattr(processor, "use_fp32_lm_head", False)
        and not getattr(processor, "use_fp32_lm_head_output", False)
        and getattr(processor, "rl_on_policy_target", None) is None
    )
