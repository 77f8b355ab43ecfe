"""flashinfer.fused_moe -> moe definitions.

The library has the rows of the upper half of ``w13`` first, the definitions those of the gate: calls are seen with
their shapes and never substituted. ``trtllm_*`` functions take weights that are shuffled, and are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, plain
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.moe import LiveMoe

from fib_plugin.adapter import Target
from fib_plugin.runtime import Runtime

#: Arguments that say where results go and how they are made, or are their own rank's affair.
_HARMLESS = (
    "output",
    "tune_max_num_tokens",
    "enable_pdl",
    "use_fused_finalize",
    "swizzled_input_sf",
    "workspace_buffer",
    "profile_ids",
    "tp_size",
    "tp_rank",
    "ep_rank",
    "cluster_rank",
)
#: What others are when they ask for nothing; Swiglu is number 3.
_USUAL: dict[str, tuple[Any, ...]] = {
    "ep_size": (1,),
    "cluster_size": (1,),
    "backend": ("cutlass",),
    "activation_type": (3,),
}


class Moe(LibraryAdapter):
    """Wraps ``cutlass_fused_moe`` of unquantized experts, which gets routed tokens."""

    name = "flashinfer.moe"
    families = ("moe",)
    op_text = "moe"
    targets = (Target("flashinfer.fused_moe.core:cutlass_fused_moe", "cutlass_fused_moe", VERSIONS),)

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveMoe(runtime, self.name)
        #: By the address and shape of fc1: what stands for both weights, in the definition's shapes.
        self._stand_ins: dict[tuple[int, torch.Size], tuple[torch.Tensor, torch.Tensor]] = {}

    def cutlass_fused_moe(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def cutlass_fused_moe(
            input: torch.Tensor,
            token_selected_experts: torch.Tensor,
            token_final_scales: torch.Tensor,
            fc1_expert_weights: torch.Tensor,
            fc2_expert_weights: torch.Tensor,
            output_dtype: torch.dtype,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            routed = (token_selected_experts, token_final_scales)
            weights = (fc1_expert_weights, fc2_expert_weights)
            if self.runtime.tracing and self.ours():
                if _unsupported(input, *routed, *weights, output_dtype, args, kwargs):
                    self.decline()
                else:
                    self.run(self._look, input, *routed, *weights)
            return self.run(original, input, *routed, *weights, output_dtype, *args, **kwargs)

        return cutlass_fused_moe

    def _look(self, x: torch.Tensor, ids: torch.Tensor, scales: torch.Tensor, fc1: torch.Tensor, fc2: Any) -> None:
        key = (fc1.data_ptr(), fc1.shape)
        if key not in self._stand_ins:
            self._stand_ins[key] = (fc1.new_empty(1).expand(fc1.shape), fc2.new_empty(1).expand(fc2.shape))
        self.calls.attempt(x, *self._stand_ins[key], scales, ids)


def _unsupported(
    x: torch.Tensor,
    ids: torch.Tensor,
    scales: Any,
    fc1: torch.Tensor,
    fc2: torch.Tensor,
    output_dtype: torch.dtype,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether the call has what the definition lacks: quantized or unequal dtypes, biases, other ranks' experts."""
    scaled = args[0] if args else kwargs.get("quant_scales")
    others = {name: value for name, value in kwargs.items() if name not in (*_HARMLESS, *_USUAL, "quant_scales")}
    return bool(
        len(args) > 1
        or scaled
        or not plain(**others)
        or any(kwargs[name] not in usual for name, usual in _USUAL.items() if name in kwargs)
        or scales is None
        or x.dtype not in NAMES
        or not x.dtype == fc1.dtype == fc2.dtype == output_dtype
        or x.dim() != 2
        or ids.dim() != 2
        or fc1.dim() != 3
        or fc2.shape != (fc1.shape[0], x.shape[1], fc1.shape[1] // 2)
        or fc1.shape[2] != x.shape[1]
    )
