"""HOT. MLA decode calls: one site a head count and dtype, keyed by batch size and KV length class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.paged import DeviceStep, slots_view

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class LiveMla:
    """MLA decode calls of one adapter.

    Args:
        engine: the engine's op on what ``attempt`` was given as ``call``, for probation.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._adapter = adapter
        self._original = None if engine is None else Original(lambda call, *others: engine(call))
        self._sites: dict[tuple[int, int, int, torch.dtype], Site] = {}

    def attempt(
        self,
        call: Any,
        step: DeviceStep,
        any_length: bool,
        q_nope: torch.Tensor,
        q_pe: torch.Tensor,
        cache: torch.Tensor,
        scale: float,
        graph: Any,
    ) -> torch.Tensor | None:
        """[batch_size, heads, latent], or None when the engine's op must answer.

        Args:
            any_length: one choice for all lengths, because a CUDA graph will hold the call.
            q_nope: [batch_size, heads, latent], the projection of keys absorbed; q_pe [batch_size, heads, rotary].
            cache: [blocks, block_size, latent + rotary], of any strides.
            graph: see DeviceStep.lists_for.
        """
        key = (q_nope.shape[1], q_nope.shape[2], q_pe.shape[2], q_nope.dtype)
        site = self._sites.get(key)
        if site is None:
            definition = ops.ALL["mla_paged_decode"].definition(
                num_qo_heads=key[0], head_dim_ckv=key[1], head_dim_kpe=key[2], page_size=1, dtype=NAMES[key[3]]
            )
            site = self._sites[key] = self._runtime.site(self._adapter, definition, original=self._original)
        point = (q_nope.shape[0], ops.ANY_LENGTH if any_length else step.length_class)
        result = site.attempt_shown(point, _shown, _inputs, call, step, q_nope, q_pe, cache, scale, graph)
        output: torch.Tensor | None = result[0] if isinstance(result, tuple) else result
        return output


def _shown(
    call: Any,
    step: DeviceStep,
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    cache: torch.Tensor,
    scale: float,
    graph: Any,
) -> tuple[object, ...]:
    pages = cache.shape[0] * step.block_size
    latent, rotary = (cache.new_empty(1).expand(pages, 1, q.shape[2]) for q in (q_nope, q_pe))
    return (q_nope, q_pe, latent, rotary, *step.shown_in(graph), scale)


def _inputs(
    call: Any,
    step: DeviceStep,
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    cache: torch.Tensor,
    scale: float,
    graph: Any,
) -> tuple[object, ...]:
    # Latent and rotary part lie side by side in one row: two views of the same pages.
    rows = cache.unsqueeze(2)
    latent, rotary = rows[..., : q_nope.shape[2]], rows[..., q_nope.shape[2] :]
    ckv, kpe = slots_view(latent, latent), slots_view(rotary, rotary)
    assert ckv is not None
    assert kpe is not None
    lists = step.lists_for(ckv.block, ckv.token, graph)
    return (q_nope, q_pe, ckv.keys.squeeze(2), kpe.keys.squeeze(2), *lists, scale)
