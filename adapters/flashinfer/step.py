"""HOT. The step that a FlashInfer wrapper was planned for: its pages as lists of tokens, made once on the device."""

from __future__ import annotations

import functools
from typing import Any

import torch
from fib_plugin.adapters.live.attention import Step

from fib_plugin import ops
from fib_plugin.capture.derived import Recipe


class PagedStep(Step):
    """One planned step, shared by all layers.

    Args:
        qo_indptr: on the device; None for decode.
        pages: where each request's pages begin in ``indices`` [requests + 1], on the host.
        indices: pages, on the device; may be longer than what is used.
        lengths: tokens of each request, on the host.
        page_size: tokens of a page.
    """

    __slots__ = ("_host", "_indices", "_kept", "page_size", "total")

    def __init__(
        self,
        qo_indptr: torch.Tensor | None,
        pages: torch.Tensor,
        indices: torch.Tensor,
        lengths: torch.Tensor,
        page_size: int,
    ) -> None:
        self.page_size = page_size
        self.total = int(lengths.sum())
        self._indices = indices
        self._host = pages, lengths
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        requests = lengths.shape[0]
        super().__init__(
            qo_indptr,
            ops.length_class(self.total // max(1, requests)),
            lambda: self.lists_for(page_size, 1),
            Recipe(
                functools.partial(tokens_by_host, page_size),
                pages=pages,
                indices=indices[: int(pages[-1])],
                lengths=lengths,
            ),
            ((requests + 1,), (self.total,)),
        )

    def lists_for(self, block: int, token: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(kv_indptr, kv_indices) for a cache of these pitches (see live.paged.Slots), int32, on the device."""
        lists = self._kept.get((block, token))
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
            self._kept[(block, token)] = lists
        return lists


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
