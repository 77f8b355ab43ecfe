"""HOT. Routed experts with fp8 weights in blocks: one site for each layer, keyed by the number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.gemm_fp8 import wrong_format
from fib_plugin.adapters.live.layers import Held, LiveLayers

from fib_plugin import ops
from fib_plugin.dispatch.site import Original
from fib_plugin.ops.gemm_fp8 import BLOCK, blocks
from fib_plugin.runtime import Runtime

FAMILY = "moe_fp8_block_scale"


def describe_experts(
    w13: Any, w13_scales: Any, w2: Any, w2_scales: Any, topk: int, dtype: torch.dtype, ue8m0: bool = False
) -> Held | str:
    """What a layer of experts holds, or in words why no definition has it.

    Args:
        w13: [num_experts, 2 * intermediate_size, hidden_size], gate rows first.
        w2: [num_experts, hidden_size, intermediate_size]; scales of both by blocks of 128 by 128.
        ue8m0: scales of activations are rounded up to powers of two.
    """
    wrong = wrong_format(w13, w13_scales, dtype) or wrong_format(w2, w2_scales, dtype)
    if wrong:
        return wrong
    if w13.dim() != 3 or w2.shape != (w13.shape[0], w13.shape[2], w13.shape[1] // 2):
        return f"experts' weights of shapes {tuple(w13.shape)} and {tuple(w2.shape)}"
    if w13.stride(2) != 1 or w2.stride(2) != 1:
        return f"experts' weights with strides {w13.stride()} and {w2.stride()}"
    experts, two_i, hidden = w13.shape
    # Gate and up have blocks of their own: only where a block ends with the gate are they those of the whole.
    if two_i // 2 % BLOCK:
        return f"experts of {two_i // 2} columns, which is no multiple of {BLOCK}"
    wanted = (experts, blocks(two_i), blocks(hidden)), (experts, blocks(hidden), blocks(two_i // 2))
    if (w13_scales.shape, w2_scales.shape) != wanted:
        return f"scales of shapes {tuple(w13_scales.shape)} and {tuple(w2_scales.shape)}, blocks {wanted}"
    definition = ops.ALL[FAMILY].definition(
        topk=topk,
        num_experts=experts,
        hidden_size=hidden,
        intermediate_size=two_i // 2,
        dtype=NAMES[dtype],
        ue8m0=ue8m0,
    )
    tail = (w13.data, w13_scales.data, w2.data, w2_scales.data)
    return Held(definition, tail, dtype, hidden)


class LiveMoeFp8(LiveLayers):
    """Expert calls of one adapter whose layers keep their weights as the parameters ``w13_weight`` and ``w2_weight``.

    Args:
        look: what the layer of a quant method holds (see `describe_experts`).
        engine: the engine's op on (method, layer, hidden_states, topk_weights, topk_ids), for probation; it may
            overwrite the hidden states.
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        look: Callable[[Any, Any], Held | str],
        engine: Callable[..., torch.Tensor],
    ) -> None:
        super().__init__(runtime, adapter, "w13_weight", look, Original(self._engine, _copied))
        self._run = engine

    def attempt(
        self, method: Any, layer: Any, hidden_states: Any, topk_weights: torch.Tensor, topk_ids: torch.Tensor
    ) -> torch.Tensor | None:
        """Mixed expert outputs [num_tokens, hidden_size], or None when the engine's op must answer."""
        known = self.known(method, layer)
        if known is None or not self.fits(known, hidden_states):
            return None
        site: Any = known.site
        if topk_ids.shape[-1] != site.definition.const_axes["topk"] or not hidden_states.shape[0]:
            self._runtime.decline(self._adapter)
            return None
        if topk_ids.dtype is not torch.int32:
            topk_ids = topk_ids.to(torch.int32)
        if topk_weights.dtype is not torch.float32:
            topk_weights = topk_weights.to(torch.float32)
        result: torch.Tensor | None = site.attempt(
            hidden_states.shape[0], (hidden_states, *known.tail, topk_weights, topk_ids)
        )
        return result

    def _engine(
        self,
        hidden_states: torch.Tensor,
        w13: torch.Tensor,
        w13_scales: torch.Tensor,
        w2: torch.Tensor,
        w2_scales: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
    ) -> torch.Tensor:
        return self._run(*self.owners[w13.data_ptr()], hidden_states, topk_weights, topk_ids)


def _copied(hidden_states: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (hidden_states.clone(), *others)
