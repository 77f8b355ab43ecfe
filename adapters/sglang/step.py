"""One forward pass of SGLang as the attention adapter needs it: which tokens belong to whom, and where they lie."""

from __future__ import annotations

import sys
from typing import Any

import torch
from fib_plugin.adapters.live.attention import Step
from fib_plugin.adapters.live.paged import DeviceStep

from fib_plugin import ops
from fib_plugin.capture.derived import Recipe

_POOL = "sglang.srt.mem_cache.memory_pool"
#: Where ``get_is_capture_mode`` is, in newer and older versions.
_CAPTURE_MODE = (
    "sglang.srt.model_executor.runner_utils.capture_mode",
    "sglang.srt.model_executor.cuda_graph_runner",
)
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


class OwnStep(Step):
    """A decode step whose lists the backend keeps on the device.

    Those of a CUDA graph are one buffer, longer than used and filled anew before each replay.

    Args:
        lists: (kv_indptr, kv_indices).
        total: how much of the second is used now.
        captured: whether a graph holds the call, or will.
    """

    __slots__ = ("captured",)

    def __init__(self, lists: tuple[torch.Tensor, torch.Tensor], requests: int, total: int, captured: bool) -> None:
        length_class = ops.ANY_LENGTH if captured else ops.length_class(total // max(1, requests))
        super().__init__(
            None,
            length_class,
            lambda: lists,
            lambda: Recipe(_used, kv_indptr=lists[0], kv_indices=lists[1]),
            ((requests + 1,), (total,)),
        )
        self.captured = captured

    def shown(self) -> tuple[Any, Any]:
        """See Step; the shapes are those of the call, whatever the buffers' are."""
        return self.derived()


def unsupported_batch(batch: Any, decode: bool, tokens: int) -> bool:
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
    location = getattr(sys.modules.get(_POOL), "KVWriteLoc", None)
    slots = batch.out_cache_loc
    kv_pool(backend, batch).set_kv_buffer(layer, slots if location is None else location(slots), k, v)


def kv_pool(backend: Any, batch: Any) -> Any:
    """The pool of keys and values; older versions keep it in the batch."""
    return getattr(backend, "token_to_kv_pool", None) or batch.token_to_kv_pool


def _step(backend: Any, batch: Any, decode: bool) -> Step | None:
    captured = decode and batch.seq_lens.is_cuda and _capture_mode()
    if decode:
        requests, total = batch.seq_lens.shape[0], int(batch.seq_lens_sum)
        lists = _own_lists(backend, requests)
        if lists is not None:
            return OwnStep(lists, requests, total, captured)
    if captured or batch.seq_lens_cpu is None:
        # What would be read here is not what a replay sees.
        return None
    qo_indptr = None if decode else _indptr(batch.extend_seq_lens)
    lengths = batch.seq_lens_cpu
    table = _token_table(backend, batch)[batch.req_pool_indices, : int(lengths.max())]
    return DeviceStep(qo_indptr, table, batch.seq_lens, lengths, 1)


def _own_lists(backend: Any, requests: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The (kv_indptr, kv_indices) that FlashInfer's and Triton's backends made for a decode step."""
    metadata = getattr(backend, "forward_metadata", None)
    wrappers = getattr(metadata, "decode_wrappers", None)
    if wrappers:
        indptr = getattr(wrappers[0], "_paged_kv_indptr_buf", None)
        indices = getattr(wrappers[0], "_paged_kv_indices_buf", None)
    else:
        indptr, indices = getattr(metadata, "kv_indptr", None), getattr(metadata, "kv_indices", None)
    if indptr is None or indices is None:
        return None
    # A copy would be made once, at capture.
    if indptr.dtype is not torch.int32 or indices.dtype is not torch.int32:
        return None
    return indptr[: requests + 1], indices


def _used(kv_indptr: Any, kv_indices: Any) -> tuple[Any, Any]:
    import numpy

    indptr = numpy.asarray(kv_indptr)
    return indptr, numpy.asarray(kv_indices)[: int(indptr[-1])]


def _capture_mode() -> bool:
    """Whether decode is being captured in CUDA graphs, warm-up included."""
    for name in _CAPTURE_MODE:
        asked = getattr(sys.modules.get(name), "get_is_capture_mode", None)
        if asked is not None and asked():
            return True
    return False


def _token_table(backend: Any, batch: Any) -> torch.Tensor:
    """Where each request's tokens lie, a row a request."""
    pool = getattr(backend, "req_to_token_pool", None) or getattr(batch, "req_to_token_pool", None)
    table: torch.Tensor = backend.req_to_token if pool is None else pool.req_to_token
    return table


def _indptr(lengths: torch.Tensor) -> torch.Tensor:
    indptr = torch.zeros(lengths.shape[0] + 1, dtype=torch.int32, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int32, out=indptr[1:])
    return indptr
