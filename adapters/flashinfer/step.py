"""HOT. The step that a FlashInfer wrapper was planned for: its pages as lists of tokens, made once on the device."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.attention import Step
from fib_plugin.adapters.live.paged import MOST_IN_GRAPH

from fib_plugin import ops
from fib_plugin.capture.derived import Derived, Recipe


class Buffers(NamedTuple):
    """Where a wrapper for CUDA graphs keeps its plan on the device: filled anew before each replay.

    Args:
        pages: where each request's pages begin in ``indices`` [requests + 1], int32.
        indices: pages, int32; longer than what is used.
        ends: tokens of each request's last page, or of the whole request [requests], int32.
        whole: which of the two.
    """

    pages: torch.Tensor
    indices: torch.Tensor
    ends: torch.Tensor
    whole: bool

    def lengths(self, page_size: int) -> torch.Tensor:
        """Tokens of each request [requests]."""
        return self.ends if self.whole else tokens_of(self.pages, self.ends, page_size)

    def most(self, page_size: int) -> int:
        """Tokens that the list has room for."""
        return self.indices.shape[0] * page_size


class PagedStep(Step):
    """One planned step, shared by all layers.

    Args:
        qo_indptr: on the device; None for decode.
        pages: where each request's pages begin in ``indices`` [requests + 1], on the host.
        indices: pages, on the device; may be longer than what is used.
        lengths: tokens of each request, on the host.
        page_size: tokens of a page.
        buffers: of a wrapper that CUDA graphs may hold; then one solution is chosen for all lengths.
    """

    __slots__ = ("_host", "_indices", "_kept", "buffers", "page_size", "total")

    def __init__(
        self,
        qo_indptr: torch.Tensor | None,
        pages: torch.Tensor,
        indices: torch.Tensor,
        lengths: torch.Tensor,
        page_size: int,
        buffers: Buffers | None = None,
    ) -> None:
        self.page_size = page_size
        self.buffers = buffers
        self.total = int(lengths.sum())
        self._indices = indices
        self._host = pages, lengths
        self._kept: dict[tuple[int, int, Any], tuple[torch.Tensor, torch.Tensor]] = {}
        requests = lengths.shape[0]
        super().__init__(
            qo_indptr,
            ops.ANY_LENGTH if buffers is not None else ops.length_class(self.total // max(1, requests)),
            lambda: self.lists_for(page_size, 1),
            lambda: Recipe(
                functools.partial(tokens_by_host, page_size),
                pages=pages,
                indices=indices[: int(pages[-1])],
                lengths=lengths,
            ),
            ((requests + 1,), (self.total,)),
        )

    def fits(self) -> bool:
        """Whether the list that a graph would make is not too long."""
        return self.buffers is None or self.buffers.most(self.page_size) <= MOST_IN_GRAPH

    def shown_in(self, graph: Any) -> tuple[Any, Any]:
        """What ``shown`` returns; for a graph, what each replay can be written down from."""
        if graph is None or self.buffers is None:
            return self.shown()
        pages, indices, ends, whole = self.buffers
        make = functools.partial(tokens_by_buffers, self.page_size, whole)
        recipe = Recipe(make, pages=pages, indices=indices, ends=ends)
        return Derived(recipe, 0, (pages.shape[0],)), Derived(recipe, 1, (self.total,))

    def lists_for(self, block: int, token: int, graph: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(kv_indptr, kv_indices) for a cache of these pitches (see live.paged.Slots), int32, on the device.

        Args:
            graph: what stands for the CUDA graph that is being captured, or None. Its lists are made inside of it from
                the wrapper's buffers, as each replay finds them; kv_indptr says how much of kv_indices counts.
        """
        lists = self._kept.get((block, token, graph))
        if lists is None and graph is not None and self.buffers is not None:
            lists = self._kept[block, token, graph] = lists_in_graph(self.buffers, self.page_size, block, token)
        if lists is None:
            pages, lengths = self._host
            device, size = self._indices.device, self.page_size
            indptr = torch.zeros(lengths.shape[0] + 1, dtype=torch.int32)
            torch.cumsum(lengths, 0, dtype=torch.int32, out=indptr[1:])
            starts = torch.stack((indptr, pages.to(torch.int32))).to(device)
            at = torch.arange(self.total, dtype=torch.int32, device=device)
            request = torch.searchsorted(starts[0, 1:].contiguous(), at, right=True)
            offset = at - starts[0][request]
            page = self._indices[(starts[1][request] + offset // size).long()].to(torch.int32)
            lists = starts[0].contiguous(), (page * block + offset % size * token).to(torch.int32)
            self._kept[block, token, graph] = lists
        return lists


def tokens_of(pages: torch.Tensor, last: torch.Tensor, page_size: int) -> torch.Tensor:
    """Tokens of each request [requests] that has these pages and so many tokens in the last of them."""
    count = pages[1:] - pages[:-1]
    return torch.where(count > 0, (count - 1) * page_size + last, 0)


def lists_in_graph(buffers: Buffers, page_size: int, block: int, token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(kv_indptr, kv_indices) without a length on the host; entries beyond kv_indptr's last name any slot."""
    pages, indices = buffers.pages, buffers.indices
    if page_size == 1 and block == 1:
        return pages, indices
    requests, device = pages.shape[0] - 1, pages.device
    indptr = torch.zeros(requests + 1, dtype=torch.int32, device=device)
    torch.cumsum(buffers.lengths(page_size), 0, dtype=torch.int32, out=indptr[1:])
    at = torch.arange(buffers.most(page_size), dtype=torch.int32, device=device)
    request = torch.searchsorted(indptr[1:], at, right=True).clamp_(max=requests - 1)
    offset = at - indptr[request]
    entry = (pages[request] + offset // page_size).clamp_(max=indices.shape[0] - 1)
    return indptr, (indices[entry.long()].to(torch.int32) * block + offset % page_size * token).to(torch.int32)


def tokens_by_host(page_size: int, pages: Any, indices: Any, lengths: Any) -> tuple[Any, Any]:
    """What ``lists_for`` makes of a dense cache, as numpy arrays, by one thread."""
    import numpy

    first, listed = numpy.asarray(pages).astype(numpy.int64), numpy.asarray(indices)
    sizes = numpy.asarray(lengths).astype(numpy.int64)
    indptr = numpy.zeros(sizes.size + 1, dtype=numpy.int64)
    numpy.cumsum(sizes, out=indptr[1:])
    offset = numpy.arange(indptr[-1]) - numpy.repeat(indptr[:-1], sizes)
    page = listed[numpy.repeat(first[:-1], sizes) + offset // page_size].astype(numpy.int64)
    return indptr.astype(numpy.int32), (page * page_size + offset % page_size).astype(numpy.int32)


def tokens_by_buffers(page_size: int, whole: bool, pages: Any, indices: Any, ends: Any) -> tuple[Any, Any]:
    """``tokens_by_host`` of Buffers."""
    import numpy

    first, last = numpy.asarray(pages).astype(numpy.int64), numpy.asarray(ends).astype(numpy.int64)
    count = numpy.diff(first)
    lengths = last if whole else numpy.where(count > 0, (count - 1) * page_size + last, 0)
    return tokens_by_host(page_size, first, indices, lengths)
