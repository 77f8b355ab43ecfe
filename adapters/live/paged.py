"""HOT. Paged caches on a device: keys and values as pages of one token, and the page lists of a scheduler step.

Nothing here waits for the device and nothing copies a cache: lists are made on the device from the engine's block table
and lengths, once a step and only when a call needs them.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.attention import Step, slots_by_host

from fib_plugin import ops
from fib_plugin.capture.derived import Derived, Recipe

#: Entries of the longest list that is made inside a CUDA graph, where it must have room for the longest requests.
MOST_IN_GRAPH = 1 << 22


class Slots(NamedTuple):
    """A cache seen as pages of one token: token ``t`` of block ``b`` is page ``b * block + t * token``."""

    keys: torch.Tensor
    values: torch.Tensor
    block: int
    token: int


def slots_view(keys: torch.Tensor, values: torch.Tensor) -> Slots | None:
    """keys and values [blocks, block_size, heads, dim], of any strides, as [pages, 1, heads, dim] on the same memory.

    Engines keep keys and values of a block side by side, or heads before tokens: then a plain view does not exist,
    and the pages overlap; the lists name only those that are tokens. None when the two are laid out differently.
    """
    if keys.stride() != values.stride() or keys.shape != values.shape:
        return None
    blocks, size, heads, dim = keys.shape
    block, token, head, element = keys.stride()
    unit = math.gcd(block, token) if size > 1 and blocks > 1 else token if size > 1 else block
    if unit == 0:
        return None
    pages = ((blocks - 1) * block + (size - 1) * token) // unit + 1
    shape, strides = (pages, 1, heads, dim), (unit, unit, head, element)
    return Slots(keys.as_strided(shape, strides), values.as_strided(shape, strides), block // unit, token // unit)


class DeviceStep(Step):
    """One scheduler step of an engine that keeps its block table on the device; shared by all layers.

    Args:
        qo_indptr: None when every request has one new token (decode).
        block_table: [requests, blocks], on the device.
        seq_lens: [requests], on the device.
        host_lens: the same on the host, at least as large; exact unless an engine drafts tokens ahead.
        block_size: tokens of a block.
    """

    __slots__ = ("_kept", "block_size", "block_table", "requests", "seq_lens", "total")

    def __init__(
        self,
        qo_indptr: torch.Tensor | None,
        block_table: torch.Tensor,
        seq_lens: torch.Tensor,
        host_lens: torch.Tensor,
        block_size: int,
    ) -> None:
        lengths = host_lens.numpy()
        requests, total = lengths.shape[0], int(lengths.sum())
        self.block_table = block_table[:requests]
        self.seq_lens = seq_lens[:requests]
        self.block_size = block_size
        self.requests = requests
        self.total = total
        self._kept: dict[tuple[int, int, Any], tuple[torch.Tensor, torch.Tensor]] = {}
        columns = -(-(int(lengths.max()) if requests else 0) // block_size)
        super().__init__(
            qo_indptr,
            ops.length_class(total // max(1, requests)),
            lambda: self.lists_for(block_size, 1),
            lambda: self._recipe_of(columns),
            ((requests + 1,), (total,)),
        )

    def _recipe_of(self, columns: int) -> Recipe:
        make = functools.partial(slots_by_host, self.block_size)
        return Recipe(make, block_table=self.block_table[:, :columns], seq_lens=self.seq_lens)

    def shown_in(self, graph: Any) -> tuple[Any, Any]:
        """What ``shown`` returns; for a graph, what each replay can be written down from."""
        if graph is None:
            return self.shown()
        recipe = self._recipe_of(self.block_table.shape[1])
        return Derived(recipe, 0, (self.requests + 1,)), Derived(recipe, 1, (self.total,))

    @property
    def most(self) -> int:
        """Entries that the block table has room for."""
        return int(self.block_table.shape[1]) * int(self.block_size) * int(self.requests)

    def lists_for(self, block: int, token: int, graph: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(kv_indptr, kv_indices) for a cache of these pitches (see Slots), both int32, on the device.

        Args:
            graph: what stands for the CUDA graph that is being captured, or None. A graph is replayed with other
                lengths and blocks in the same buffers, so its lists are made inside of it, from these buffers, with
                room for everything that the table can name; kv_indptr says how much of it counts. Lists that were
                made outside, or in another graph, would be those of that moment.
        """
        key = (block, token, graph)
        lists = self._kept.get(key)
        if lists is None:
            total = self.total if graph is None else self.most
            lists = self._kept[key] = device_lists(
                self.block_table, self.seq_lens, total, self.block_size, block, token
            )
        return lists


def device_lists(
    block_table: torch.Tensor, seq_lens: torch.Tensor, total: int, block_size: int, block: int, token: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(kv_indptr, kv_indices): where the tokens of each request lie, without reading a length on the host.

    ``total`` must be at least the sum of the lengths; entries beyond it name some block of the last request.
    """
    requests, columns = block_table.shape
    indptr = torch.zeros(requests + 1, dtype=torch.int32, device=block_table.device)
    torch.cumsum(seq_lens, 0, dtype=torch.int32, out=indptr[1:])
    at = torch.arange(total, dtype=torch.int32, device=block_table.device)
    request = torch.searchsorted(indptr[1:], at, right=True).clamp_(max=requests - 1)
    offset = at - indptr[request]
    blocks = block_table[request, (offset // block_size).clamp_(max=columns - 1).long()]
    return indptr, (blocks.to(torch.int32) * block + (offset % block_size) * token).to(torch.int32)
