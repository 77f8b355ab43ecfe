"""HOT. Paged attention calls: one site for decode and one for prefill, keyed by size and KV length class.

Engines with pages of any size but 64 are expressed with page_size 1: the index list names token slots.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.capture.derived import Derived, Recipe
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class Step:
    """One scheduler step, shared by all layers. Its page lists are made when a call first needs them.

    Args:
        qo_indptr: None when every request has one new token (decode).
        length_class: of the mean KV length (see OpSpec.point).
        make: makes (kv_indptr, kv_indices).
        recipe: returns what makes them on the writer's thread, for a call that is only written down, and is asked when
            the first such call is made; None: ``make`` is cheap.
        shapes: of the two, if there is a recipe.
    """

    __slots__ = ("_ask", "_lists", "_make", "_recipe", "_shapes", "length_class", "qo_indptr")

    def __init__(
        self,
        qo_indptr: torch.Tensor | None,
        length_class: int,
        make: Callable[[], tuple[torch.Tensor, torch.Tensor]],
        recipe: Callable[[], Recipe] | None = None,
        shapes: tuple[tuple[int], tuple[int]] | None = None,
    ) -> None:
        self.qo_indptr = qo_indptr
        self.length_class = length_class
        self._make = make
        self._ask = recipe
        self._recipe: Recipe | None = None
        self._shapes = shapes
        self._lists: tuple[torch.Tensor, torch.Tensor] | None = None

    def lists(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(kv_indptr, kv_indices), both int32."""
        if self._lists is None:
            self._lists = self._make()
        return self._lists

    def shown(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[Derived, Derived]:
        """What ``lists`` returns if that is cheap, else stand-ins that a record may hold but no solution can read."""
        if self._ask is None or self._lists is not None:
            return self.lists()
        return self.derived()

    def derived(self) -> tuple[Derived, Derived]:
        """The two as the writer's thread makes them; for a step with a recipe."""
        assert self._ask is not None
        assert self._shapes is not None
        recipe = self._recipe
        if recipe is None:
            recipe = self._recipe = self._ask()
        return Derived(recipe, 0, self._shapes[0]), Derived(recipe, 1, self._shapes[1])


def table_step(
    qo_indptr: torch.Tensor | None,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
) -> Step:
    """The step of an engine that keeps a block table (see slots_of); lengths are host tensors."""
    lengths = seq_lens.tolist()  # a sum by torch takes longer than one of some hundred numbers
    requests, total = len(lengths), sum(lengths)

    def recipe() -> Recipe:
        # Columns of the table that no request has reached are not looked at; torch's slices take ten times as long.
        used = block_table.numpy()[:requests, : -(-max(lengths, default=0) // block_size)]
        return Recipe(functools.partial(slots_by_host, block_size), block_table=used, seq_lens=seq_lens)

    return Step(
        qo_indptr,
        ops.length_class(total // max(1, requests)),
        lambda: slots_of(block_table, seq_lens, block_size),
        recipe,
        ((requests + 1,), (total,)),
    )


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


def slots_by_host(block_size: int, block_table: Any, seq_lens: Any) -> tuple[Any, Any]:
    """slots_of as numpy arrays, made by one thread: torch would give the writer's thread helpers of its own."""
    import numpy

    table, lengths = numpy.asarray(block_table), numpy.asarray(seq_lens).astype(numpy.int64)
    indptr = numpy.zeros(lengths.size + 1, dtype=numpy.int64)
    numpy.cumsum(lengths, out=indptr[1:])
    request = numpy.repeat(numpy.arange(lengths.size), lengths)
    offset = numpy.arange(indptr[-1]) - numpy.repeat(indptr[:-1], lengths)
    slots = table[request, offset // block_size].astype(numpy.int64) * block_size + offset % block_size
    return indptr.astype(numpy.int32), slots.astype(numpy.int32)


class LiveAttention:
    """Paged attention calls of one adapter.

    Args:
        engine: the engine's op on what the adapter hands to the site, for probation.
        handed: whether the engine hands in the tensor that a result is to be written to.
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        engine: Callable[..., torch.Tensor] | None = None,
        handed: bool = True,
    ) -> None:
        self._runtime = runtime
        self._original = None if engine is None else Original(engine, finish=_copied_back if handed else None)
        self._adapter = adapter
        self._sites: dict[tuple[bool, int, int, int, torch.dtype], Site] = {}

    def site(self, step: Step, q: torch.Tensor, num_kv_heads: int) -> Site:
        """The site for queries q [tokens, heads, head_dim] of this step."""
        _, heads, head_dim = q.shape
        return self.site_of(step, heads, num_kv_heads, head_dim, q.dtype)

    def site_of(self, step: Step, heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> Site:
        """The site for queries of this shape, for an adapter that has not made a tensor of that shape yet."""
        key = (step.qo_indptr is None, heads, num_kv_heads, head_dim, dtype)
        site = self._sites.get(key)
        if site is None:
            family = ops.ALL["gqa_paged_decode" if key[0] else "gqa_paged_prefill"]
            definition = family.definition(
                num_qo_heads=heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                page_size=1,
                dtype=NAMES[dtype],
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

    @staticmethod
    def shown(
        step: Step, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, sm_scale: float
    ) -> tuple[object, ...]:
        """The definition's inputs for a first look at a call: only shapes and what is written down can be read."""
        lists = step.shown()
        if step.qo_indptr is None:
            return (q, k_cache, v_cache, *lists, sm_scale)
        return (q, k_cache, v_cache, step.qo_indptr, *lists, sm_scale)


def _copied_back(result: Any, given: tuple[Any, ...]) -> None:
    output = result[0] if isinstance(result, tuple) else result
    torch.empty_like(output).copy_(output)
