"""SGLang RMSNorm -> rmsnorm and fused_add_rmsnorm definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.norm import LiveNorm
from fib_plugin.adapters.sglang.engine import SGLANG, displaced_source, weight_of
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_RMSNORM = "sglang.srt.layers.layernorm:RMSNorm"
_PARAMS = ("self", "x", "residual", "post_residual_addition")
_BEFORE, _SINCE = ">=0.5.11,<0.5.18", ">=0.5.18,<0.5.24"


class Norm(Adapter):
    """Wraps the methods of which an instance chooses one at its first call.

    On CUDA the engine's op writes both results over its inputs and returns these; callers use what is returned.
    """

    name = "sglang.norm"
    engine = SGLANG
    families = ("rmsnorm", "fused_add_rmsnorm")
    targets = (
        Target(f"{_RMSNORM}.forward_native", "native", _BEFORE, params=_PARAMS),
        Target(f"{_RMSNORM}.forward_native", "native", _SINCE, params=(*_PARAMS, "quant_linear")),
        Target(f"{_RMSNORM}.forward_cuda", "cuda", _BEFORE, params=_PARAMS),
        Target(f"{_RMSNORM}.forward_cuda", "cuda", _SINCE, params=(*_PARAMS, "quant_linear")),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveNorm(runtime, self.name, dict.fromkeys(self.families, self._engine))
        self.widths = {
            family: frozenset(c["hidden_size"] for c in runtime.candidates(family)) for family in self.families
        }
        #: By a weight's address: the module that the engine's op needs.
        self._norms: dict[int, Any] = {}
        self._originals: dict[bool, Callable[..., Any]] = {}

    def displaced(self, definition: Definition) -> str:
        return displaced_source("rmsnorm", definition)

    def native(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, False)

    def cuda(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, True)

    def _around(self, original: Callable[..., Any], cuda: bool) -> Callable[..., Any]:
        self._originals[cuda] = original

        def forward(
            norm: Any,
            x: torch.Tensor,
            residual: torch.Tensor | None = None,
            post_residual_addition: torch.Tensor | None = None,
            quant_linear: Any = None,
        ) -> Any:
            # On CUDA one method falls back to the other, which must not count the call again.
            if self.live and x.is_cuda is cuda:
                out = self._substitute(norm, x, residual, post_residual_addition, quant_linear)
                if out is not None:
                    return out
            if quant_linear is None:
                return original(norm, x, residual, post_residual_addition)
            return original(norm, x, residual, post_residual_addition, quant_linear)

        return forward

    def _substitute(
        self, norm: Any, x: torch.Tensor, residual: torch.Tensor | None, addition: torch.Tensor | None, linear: Any
    ) -> Any:
        """What the engine's op would return, by a solution; None when the engine's op must answer."""
        widths = self.widths["rmsnorm" if residual is None else "fused_add_rmsnorm"]
        if is_dynamo_compiling() or not (self.runtime.tracing or x.shape[-1] in widths):
            return None
        weight: Any = weight_of(norm) if norm.has_weight else None
        if addition is not None or _unsupported(norm, x, weight, residual) or _quantizes(linear):
            self.decline()
            return None
        if weight.data_ptr() not in self._norms:
            self._norms[weight.data_ptr()] = norm
        if residual is None:
            return self.calls.rmsnorm(x, weight, norm.variance_epsilon)
        return self.calls.fused_add_rmsnorm(x, residual, weight, norm.variance_epsilon)

    def _engine(self, x: torch.Tensor, *others: Any) -> Any:
        *residual, weight, _ = others
        return self._originals[x.is_cuda](self._norms[weight.data_ptr()], x, *residual)


def _unsupported(norm: Any, x: torch.Tensor, weight: Any, residual: torch.Tensor | None) -> bool:
    """Whether the module has what the definitions lack: part of a row, another rounding, a wider residual."""
    return bool(
        norm.variance_size_override is not None
        or weight is None
        or norm.fp32_residual
        or norm.override_orig_dtype is not None
        or (norm.cast_x_before_out_mul and x.dtype is not torch.float32)
        or norm.__dict__.get("x_pad_to_multiple", 0)  # a module is slow to say that it lacks something
        or weight.dtype != x.dtype
        or x.dtype not in NAMES
        or (residual is not None and (residual.dtype != x.dtype or residual.shape != x.shape))
        or not x.numel()
    )


def _quantizes(linear: Any) -> bool:
    """Whether the norm may also quantize for the layer after it."""
    return linear is not None and type(linear.quant_method).__name__ != "UnquantizedLinearMethod"
