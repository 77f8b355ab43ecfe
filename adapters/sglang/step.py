"""One forward pass of SGLang as the attention adapter needs it: which tokens belong to whom, and where they lie."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from fib_plugin.adapters.live.attention import Step, slots_by_host, slots_of

from fib_plugin import ops
from fib_plugin.capture.derived import Recipe

_POOL = "sglang.srt.mem_cache.memory_pool"
#: Batches that may be under way at once (a pass may be split in two that take turns).
_MOST = 8


class Steps:
    """The steps of the passes under way, each shared by the layers of its pass.

    An engine may use one batch object for many passes; a pass begins where a layer comes that is not after the last.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], tuple[int, Step]] = {}

    def of(self, backend: Any, layer: Any, batch: Any, decode: bool) -> Step | None:
        """The step of this call, or None where the page lists cannot be had."""
        key = (id(batch), decode)
        known = self._known.get(key)
        if known is not None and known[0] < layer.layer_id:
            step = known[1]
        else:
            made = _step(backend, batch, decode)
            if made is None:
                return None
            step = made
            if len(self._known) >= _MOST:
                self._known.clear()
        self._known[key] = (layer.layer_id, step)
        return step


def unsupported_batch(backend: Any, batch: Any, decode: bool, tokens: int) -> bool:
    """Whether the batch is no plain decode or causal prefill, or is padded."""
    mode = batch.forward_mode.name
    return bool(
        not tokens
        or mode not in (("DECODE",) if decode else ("EXTEND", "MIXED"))
        or batch.spec_info is not None
        or batch.encoder_lens is not None
        or batch.seq_lens_sum is None
        or tokens != (batch.seq_lens.shape[0] if decode else batch.extend_num_tokens)
    )


def write_kv(backend: Any, layer: Any, batch: Any, k: torch.Tensor, v: torch.Tensor) -> None:
    """Writes the new keys and values to their slots, as every backend does before or after it attends."""
    pool = getattr(backend, "token_to_kv_pool", None) or batch.token_to_kv_pool
    location = getattr(sys.modules.get(_POOL), "KVWriteLoc", None)
    slots = batch.out_cache_loc
    pool.set_kv_buffer(layer, slots if location is None else location(slots), k, v)


def _step(backend: Any, batch: Any, decode: bool) -> Step | None:
    requests, total = batch.seq_lens.shape[0], int(batch.seq_lens_sum)
    length_class = ops.length_class(total // max(1, requests))
    if decode:
        lists = _own_lists(backend, requests)
        if lists is not None:
            return Step(None, length_class, lambda: lists)
        if batch.seq_lens.is_cuda and torch.cuda.is_current_stream_capturing():
            # What would be read here is not what a replay sees.
            return None
    qo_indptr = None if decode else _indptr(batch.extend_seq_lens)
    table = functools.partial(_table, backend, batch)
    return Step(
        qo_indptr,
        length_class,
        lambda: slots_of(table(), batch.seq_lens, 1, total),
        lambda: Recipe(functools.partial(slots_by_host, 1), block_table=table(), seq_lens=batch.seq_lens),
        ((requests + 1,), (total,)),
    )


def _own_lists(backend: Any, requests: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The (kv_indptr, kv_indices) that a backend made for a decode step; those of a CUDA graph are longer than used."""
    metadata = getattr(backend, "forward_metadata", None)
    wrappers = getattr(metadata, "decode_wrappers", None)
    if wrappers:
        wrapper = wrappers[0]
        lists = getattr(wrapper, "_paged_kv_indptr_buf", None), getattr(wrapper, "_paged_kv_indices_buf", None)
    else:
        lists = getattr(metadata, "kv_indptr", None), getattr(metadata, "kv_indices", None)
    indptr, indices = lists
    if indptr is None or indices is None:
        return None
    return indptr[: requests + 1].to(torch.int32), indices.to(torch.int32)


def _table(backend: Any, batch: Any) -> torch.Tensor:
    """[requests, longest]: where each request's tokens lie."""
    pool = getattr(backend, "req_to_token_pool", None) or getattr(batch, "req_to_token_pool", None)
    slots = backend.req_to_token if pool is None else pool.req_to_token
    lengths = batch.seq_lens if batch.seq_lens_cpu is None else batch.seq_lens_cpu
    return slots[batch.req_pool_indices, : int(lengths.max())]


def _indptr(lengths: torch.Tensor) -> torch.Tensor:
    indptr = torch.zeros(lengths.shape[0] + 1, dtype=torch.int32, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int32, out=indptr[1:])
    return indptr
