"""HOT. Paged attention calls: one site for decode and one for prefill, keyed by size and KV length class.

Engines with pages of any size but 64 are expressed with page_size 1: the index list names token slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class Step:
    """One scheduler step, shared by all layers. Its page lists are made when a call first needs them.

    Args:
        qo_indptr: None when every request has one new token (decode).
        length_class: of the mean KV length (see OpSpec.point).
        make: makes (kv_indptr, kv_indices).
    """

    __slots__ = ("_lists", "_make", "length_class", "qo_indptr")

    def __init__(
        self,
        qo_indptr: torch.Tensor | None,
        length_class: int,
        make: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.qo_indptr = qo_indptr
        self.length_class = length_class
        self._make = make
        self._lists: tuple[torch.Tensor, torch.Tensor] | None = None

    def lists(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(kv_indptr, kv_indices), both int32."""
        if self._lists is None:
            self._lists = self._make()
        return self._lists


def slots_of(block_table: torch.Tensor, seq_lens: torch.Tensor, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(kv_indptr, kv_indices), both int32, at page_size 1.

    block_table [requests, blocks] lists each request's blocks of ``block_size`` token slots; seq_lens [requests].
    Reads the total length on the host: call it where lengths are host tensors.
    """
    lengths = seq_lens.to(torch.int64)
    indptr = torch.zeros(lengths.numel() + 1, dtype=torch.int32, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int32, out=indptr[1:])
    total = int(indptr[-1])
    request = torch.repeat_interleave(lengths, output_size=total)
    offset = torch.arange(total, device=lengths.device) - indptr[:-1].to(torch.int64)[request]
    blocks = block_table[request, offset // block_size].to(torch.int64)
    return indptr, (blocks * block_size + offset % block_size).to(torch.int32)


class LiveAttention:
    """Paged attention calls of one adapter.

    Args:
        engine: the engine's op on what the adapter hands to ``attempt_made``, for probation.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._original = None if engine is None else Original(engine, finish=_copied_back)
        self._adapter = adapter
        self._sites: dict[tuple[bool, int, int, int, torch.dtype], Site] = {}

    def site(self, step: Step, q: torch.Tensor, num_kv_heads: int) -> Site:
        """The site for queries q [tokens, heads, head_dim] of this step."""
        key = (step.qo_indptr is None, q.shape[1], num_kv_heads, q.shape[2], q.dtype)
        site = self._sites.get(key)
        if site is None:
            family = ops.ALL["gqa_paged_decode" if key[0] else "gqa_paged_prefill"]
            definition = family.definition(
                num_qo_heads=q.shape[1],
                num_kv_heads=num_kv_heads,
                head_dim=q.shape[2],
                page_size=1,
                dtype=NAMES[q.dtype],
            )
            site = self._sites[key] = self._runtime.site(self._adapter, definition, original=self._original)
        return site

    @staticmethod
    def inputs(
        step: Step,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        sm_scale: float,
        kv_indices: torch.Tensor | None = None,
    ) -> tuple[object, ...]:
        """The definition's inputs in order; k_cache and v_cache [slots, 1, num_kv_heads, head_dim].

        ``kv_indices`` stands for the step's own where the caches hold only the slots of the step.
        """
        kv_indptr, own = step.lists()
        indices = own if kv_indices is None else kv_indices
        if step.qo_indptr is None:
            return (q, k_cache, v_cache, kv_indptr, indices, sm_scale)
        return (q, k_cache, v_cache, step.qo_indptr, kv_indptr, indices, sm_scale)


def _copied_back(result: Any) -> None:
    # Engines hand in the tensor that the result is to be written to.
    output = result[0] if isinstance(result, tuple) else result
    torch.empty_like(output).copy_(output)
