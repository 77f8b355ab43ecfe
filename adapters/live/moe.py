"""HOT. Routed expert calls: one site for each layer's weights, keyed by the number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class LiveMoe:
    """Expert calls of one adapter.

    Args:
        engine: the engine's op on the definition's inputs, for probation; it may overwrite the hidden states.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._original = None if engine is None else Original(engine, _copied)
        self._adapter = adapter
        self._sites: dict[tuple[int, int], Site] = {}
        self._alive: list[torch.Tensor] = []

    def attempt(
        self,
        hidden_states: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
    ) -> torch.Tensor | None:
        """Mixed expert outputs [num_tokens, hidden_size], or None when the engine's op must answer."""
        site = self._sites.get((w13.data_ptr(), topk_ids.shape[-1])) or self._resolve(w13, topk_ids.shape[-1])
        if topk_ids.dtype is not torch.int32:
            topk_ids = topk_ids.to(torch.int32)
        if topk_weights.dtype is not torch.float32:
            topk_weights = topk_weights.to(torch.float32)
        result: torch.Tensor | None = site.attempt(
            hidden_states.shape[0], (hidden_states, w13, w2, topk_weights, topk_ids)
        )
        return result

    def wins(self, topk: int, w13: torch.Tensor) -> bool:
        """Whether a solution is proven for experts of this shape at any number of tokens."""
        return w13.dtype in NAMES and self._runtime.wins(_definition(w13, topk))

    def _resolve(self, w13: torch.Tensor, topk: int) -> Site:
        stand_in = w13.numel() > 1 and not any(w13.stride())
        site = self._runtime.site(self._adapter, _definition(w13, topk), observe_only=stand_in, original=self._original)
        self._alive.append(w13.detach())
        self._sites[w13.data_ptr(), topk] = site
        return site


def _copied(hidden_states: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (hidden_states.clone(), *others)


def _definition(w13: torch.Tensor, topk: int):  # type: ignore[no-untyped-def]
    experts, two_i, hidden = w13.shape
    return ops.ALL["moe"].definition(
        topk=topk, num_experts=experts, hidden_size=hidden, intermediate_size=two_i // 2, dtype=NAMES[w13.dtype]
    )
