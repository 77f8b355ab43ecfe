"""flashinfer's batch attention wrappers -> gqa_paged and gqa_ragged definitions.

``plan`` is given the step, ``run`` the tensors of one layer: the step is kept with the wrapper and its token lists are
made once, when a solution first needs them. Where ``plan`` does more than a definition can say (a window, a soft cap, a
mask, rotation on the fly, a scale of the cache), ``run`` is left to the library and counted.

A wrapper with ``use_cuda_graph`` is planned outside of the graph that holds its ``run``, into buffers of its own. Its
decode has one solution for all lengths, and the graph makes the lists from these buffers; prefill in a graph is left to
the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, plain
from fib_plugin.adapters.flashinfer.planned import planned_by, returned, uncapturable
from fib_plugin.adapters.flashinfer.step import Buffers, PagedStep, tokens_of
from fib_plugin.adapters.live.attention import LiveAttention
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.paged import slots_view

from fib_plugin import ops
from fib_plugin.adapter import Target
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class Wrapper(LibraryAdapter):
    """What the wrappers share: ``run`` with its many switches, and ``run_return_lse``, which binds the original."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._original: Callable[..., Any]

    def run_return_lse(self, original: Any) -> Callable[..., Any]:
        def run_return_lse(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            return wrapper.run(*args, **{**kwargs, "return_lse": True})

        return run_return_lse

    def wrapped_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._original = original

        def run(wrapper: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.ours():
                reason = self._reason(wrapper, q, args, kwargs)
                if reason is not None:
                    self.decline(reason)
                else:
                    result = self.run(self._attempt, wrapper, q, *args[: self.tensors])
                    if result is not None and (isinstance(result, tuple) or not kwargs.get("return_lse")):
                        return returned(result, **kwargs)
            return self.run(original, wrapper, q, *args, **kwargs)

        return run

    #: Tensors of ``run`` beside q.
    tensors = 1
    #: Whether ``plan`` chooses a mask.
    masked = True
    #: Whether a CUDA graph may hold a solution in the place of ``run``.
    in_graphs = False

    def _reason(self, wrapper: Any, q: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reason | None:
        given = {key: value for key, value in kwargs.items() if key not in _HARMLESS and not _neutral(value)}
        if len(args) != self.tensors or not plain(**given) or q.dtype not in NAMES or unsupported(wrapper, q):
            return Reason.UNSUPPORTED_ARGUMENT
        if self.masked and wrapper._causal is not True:
            return Reason.UNSUPPORTED_ARGUMENT
        return Reason.CAPTURING if uncapturable(self, wrapper, q) else None

    def _attempt(self, wrapper: Any, q: torch.Tensor, *tensors: Any) -> Any:
        raise NotImplementedError


#: Arguments of ``run`` that say where results go and how they are made.
_HARMLESS = ("out", "lse", "return_lse", "enable_pdl")


def _neutral(value: Any) -> bool:
    """No scale, no window. A scale on the device may be anything."""
    return not isinstance(value, torch.Tensor) and value in (1.0, -1)


class _Paged(Wrapper):
    """Wrappers over a paged cache."""

    op_text = "paged"

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveAttention(runtime, self.name, self._engine)

    def _planned(
        self, wrapper: Any, indptr: torch.Tensor, last_page_len: torch.Tensor, page_size: int, qo_indptr: Any
    ) -> None:
        # ``plan`` itself has just brought these to the host.
        pages, last = indptr.cpu(), last_page_len.cpu()
        wrapper.fib_planned = (pages, tokens_of(pages, last, page_size), page_size, qo_indptr)
        wrapper.fib_step = None

    def _attempt(self, wrapper: Any, q: torch.Tensor, *tensors: Any) -> Any:
        step = _step(wrapper, q)
        both = _halves(tensors[0], wrapper._kv_layout)
        if step is None or both is None or both[0].dtype is not q.dtype or slots_view(*both) is None:
            self.decline()
            return None
        graph = self.runtime.graphs.current()
        if graph is not None and not step.fits():
            self.decline(Reason.CAPTURING)
            return None
        site = self.calls.site(step, q, both[0].shape[2])
        key = (q.shape[0], step.length_class)
        return site.attempt_shown(key, self._shown, self._inputs, wrapper, q, tensors[0], graph)

    def _shown(self, wrapper: Any, q: torch.Tensor, cache: Any, graph: Any) -> tuple[object, ...]:
        keys, _ = _halves(cache, wrapper._kv_layout)  # type: ignore[misc]
        pages, size, heads, dim = keys.shape
        pool = keys.new_empty(1).expand(pages * size, 1, heads, dim)
        step = wrapper.fib_step
        starts = () if step.qo_indptr is None else (step.qo_indptr,)
        return (q, pool, pool, *starts, *step.shown_in(graph), _scale(wrapper, q))

    def _inputs(self, wrapper: Any, q: torch.Tensor, cache: Any, graph: Any) -> tuple[object, ...]:
        slots = slots_view(*_halves(cache, wrapper._kv_layout))  # type: ignore[misc]
        assert slots is not None
        step = wrapper.fib_step
        lists = step.lists_for(slots.block, slots.token, graph)
        starts = () if step.qo_indptr is None else (step.qo_indptr,)
        return (q, slots.keys, slots.values, *starts, *lists, _scale(wrapper, q))

    def _engine(self, wrapper: Any, q: torch.Tensor, cache: Any, graph: Any) -> torch.Tensor:
        return self.run(self._original, wrapper, q, cache)  # type: ignore[no-any-return]


_DECODE = "flashinfer.decode:BatchDecodeWithPagedKVCacheWrapper"
_PREFILL = "flashinfer.prefill:BatchPrefillWithPagedKVCacheWrapper"
_RAGGED = "flashinfer.prefill:BatchPrefillWithRaggedKVCacheWrapper"


def _targets(wrapper: str) -> tuple[Target, ...]:
    """``begin_forward`` is ``plan`` by another name and is found with it; ``forward`` calls ``run``."""
    return (
        Target(f"{wrapper}.plan", "plan", VERSIONS),
        Target(f"{wrapper}.run", "wrapped_run", VERSIONS),
        Target(f"{wrapper}.run_return_lse", "run_return_lse", VERSIONS),
    )


class PagedDecode(_Paged):
    """``BatchDecodeWithPagedKVCacheWrapper``."""

    masked = False
    in_graphs = True
    name = "flashinfer.paged_decode"
    families = ("gqa_paged_decode",)
    targets = _targets(_DECODE)

    def plan(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def plan(
            wrapper: Any,
            indptr: torch.Tensor,
            indices: torch.Tensor,
            last_page_len: torch.Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim: int,
            page_size: int,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
            result = original(wrapper, indptr, indices, last_page_len, *sizes, *args, **kwargs)
            if self.live:
                self._planned(wrapper, indptr, last_page_len, page_size, None)
            return result

        return plan


class PagedPrefill(_Paged):
    """``BatchPrefillWithPagedKVCacheWrapper``."""

    name = "flashinfer.paged_prefill"
    families = ("gqa_paged_prefill",)
    targets = _targets(_PREFILL)

    def plan(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def plan(
            wrapper: Any,
            qo_indptr: torch.Tensor,
            paged_kv_indptr: torch.Tensor,
            paged_kv_indices: torch.Tensor,
            paged_kv_last_page_len: torch.Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim_qk: int,
            page_size: int,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            pages = (paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
            sizes = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
            result = original(wrapper, qo_indptr, *pages, *sizes, *args, **kwargs)
            if self.live:
                self._planned(wrapper, paged_kv_indptr, paged_kv_last_page_len, page_size, qo_indptr)
            return result

        return plan


class RaggedPrefill(Wrapper):
    """``BatchPrefillWithRaggedKVCacheWrapper``."""

    name = "flashinfer.ragged_prefill"
    families = ("gqa_ragged_prefill",)
    op_text = "ragged"
    targets = _targets(_RAGGED)
    tensors = 2

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sites: dict[tuple[int, int, int, torch.dtype], Site] = {}

    def plan(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def plan(wrapper: Any, qo_indptr: torch.Tensor, kv_indptr: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            result = original(wrapper, qo_indptr, kv_indptr, *args, **kwargs)
            if self.live:
                wrapper.fib_planned = (qo_indptr, kv_indptr)
                wrapper.fib_step = None
            return result

        return plan

    def _attempt(self, wrapper: Any, q: torch.Tensor, *tensors: Any) -> Any:
        planned = planned_by(wrapper)
        k, v = tensors
        if planned is None or k.dtype is not q.dtype or v.shape != k.shape or k.shape[2] != q.shape[2]:
            self.decline()
            return None
        if wrapper.fib_step is None:
            wrapper.fib_step = tuple(starts.to(device=q.device, dtype=torch.int32) for starts in planned)
        key = (q.shape[1], k.shape[1], q.shape[2], q.dtype)
        site = self._sites.get(key)
        if site is None:
            definition = ops.ALL["gqa_ragged_prefill"].definition(
                num_qo_heads=key[0], num_kv_heads=key[1], head_dim=key[2], dtype=NAMES[q.dtype]
            )
            original = Original(lambda wrapper, q, k, v: self.run(self._original, wrapper, q, k, v))
            site = self._sites[key] = self.runtime.site(self.name, definition, original=original)
        requests = max(1, planned[0].shape[0] - 1)
        point = (q.shape[0], ops.length_class(k.shape[0] // requests))
        return site.attempt_made(point, _ragged_inputs, wrapper, q, k, v)


def _ragged_inputs(wrapper: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[object, ...]:
    return (q, k, v, *wrapper.fib_step, _scale(wrapper, q))


def _step(wrapper: Any, q: torch.Tensor) -> PagedStep | None:
    """The step that ``plan`` was given, made by the first layer; None when that cannot be known."""
    planned = planned_by(wrapper)
    if planned is None:
        return None
    if wrapper.fib_step is None:
        pages, lengths, page_size, qo_indptr = planned
        starts = None if qo_indptr is None else qo_indptr.to(device=q.device, dtype=torch.int32)
        indices, buffers = wrapper._paged_kv_indices_buf, None
        if starts is None and getattr(wrapper, "_use_cuda_graph", False):
            buffers = Buffers(wrapper._paged_kv_indptr_buf, indices, wrapper._paged_kv_last_page_len_buf, False)
        wrapper.fib_step = PagedStep(starts, pages, indices, lengths, page_size, buffers)
    step: PagedStep = wrapper.fib_step
    return step


def _halves(cache: Any, layout: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(keys, values) [pages, page_size, kv_heads, head_dim] of a pair, or of one tensor with the pair in it."""
    if isinstance(cache, torch.Tensor):
        if cache.dim() != 5 or cache.shape[1] != 2:
            return None
        cache = cache.unbind(1)
    keys, values = cache
    if keys.dim() != 4 or values.dim() != 4:
        return None
    return (keys.transpose(1, 2), values.transpose(1, 2)) if layout == "HND" else (keys, values)


def _scale(wrapper: Any, q: torch.Tensor) -> float:
    scale = wrapper._sm_scale
    return float(q.shape[-1] ** -0.5 if scale is None else scale)


def unsupported(wrapper: Any, q: torch.Tensor) -> bool:
    """Whether ``plan`` asked for what the definitions lack."""
    return bool(
        getattr(wrapper, "_jit_module", None) is not None
        or getattr(wrapper, "_custom_mask_buf", None) is not None
        or getattr(wrapper, "_window_left", -1) not in (-1, None)
        or getattr(wrapper, "_logits_soft_cap", None)
        or getattr(wrapper, "_pos_encoding_mode", "NONE") not in ("NONE", None)
        or getattr(wrapper, "_cached_o_data_type", None) not in (None, q.dtype)
        or any(getattr(wrapper, name, None) is not None for name in ("_prefix_len_ptr", "_token_pos_in_items_ptr"))
    )
