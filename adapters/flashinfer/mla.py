"""flashinfer.mla's batch wrapper -> mla_paged_decode definitions.

Planned and run as the wrappers of attention.py are. A plan of more than one query a request (chunks of a prefill,
drafted tokens), of page tables in place of lists, or with scales, sinks or another output dtype is left to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter, plain
from fib_plugin.adapters.flashinfer.planned import planned_by, returned, uncapturable
from fib_plugin.adapters.flashinfer.step import Buffers, PagedStep
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.paged import Slots, slots_view

from fib_plugin import ops
from fib_plugin.adapter import Target
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime

_WRAPPER = "flashinfer.mla:BatchMLAPagedAttentionWrapper"
_LISTS = ("qo_indptr", "kv_indptr", "kv_indices", "kv_len_arr")
_SIZES = ("num_heads", "head_dim_ckv", "head_dim_kpe", "page_size")
_PLAN = (*_LISTS, *_SIZES, "causal", "sm_scale", "q_data_type", "kv_data_type", "use_profiler")
_TENSORS = ("q_nope", "q_pe", "ckv_cache", "kpe_cache")
#: Arguments of ``run`` that say where results go.
_PLACES = ("out", "lse", "return_lse")
_RUN = (*_TENSORS, *_PLACES, "profiler_buffer", "kv_len", "page_table", "return_lse_base_on_e")


class _Planned(NamedTuple):
    """A decode step; the lists on the host but for ``indices``."""

    pages: torch.Tensor
    lengths: torch.Tensor
    indices: torch.Tensor
    page_size: int
    sm_scale: float


class _Call(NamedTuple):
    """What ``run`` was given."""

    wrapper: Any
    step: PagedStep
    latent: Slots
    rotary: Slots
    scale: float
    given: dict[str, Any]


class Mla(LibraryAdapter):
    """``BatchMLAPagedAttentionWrapper``."""

    name = "flashinfer.mla"
    families = ("mla_paged_decode",)
    op_text = "mla"
    in_graphs = True
    targets = (
        Target(f"{_WRAPPER}.plan", "plan", VERSIONS),
        Target(f"{_WRAPPER}.run", "wrapped_run", VERSIONS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._original: Callable[..., Any]
        self._sites: dict[tuple[int, int, int, torch.dtype], Site] = {}

    def plan(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def plan(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(wrapper, *args, **kwargs)
            if self.live:
                wrapper.fib_planned = _planned({**dict(zip(_PLAN, args, strict=False)), **kwargs})
                wrapper.fib_step = None
            return result

        return plan

    def wrapped_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._original = original

        def run(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            if self.ours():
                given = {**dict(zip(_RUN, args, strict=False)), **kwargs}
                result = self.run(self._attempt, wrapper, given)
                if result is not None and (isinstance(result, tuple) or not given.get("return_lse")):
                    return returned(result, **{name: given[name] for name in _PLACES if name in given})
            return self.run(original, wrapper, *args, **kwargs)

        return run

    def _attempt(self, wrapper: Any, given: dict[str, Any]) -> Any:
        planned: _Planned | None = planned_by(wrapper)
        tensors = None if planned is None else _tensors(given)
        if planned is None or tensors is None or not plain(**_others(given)):
            self.decline()
            return None
        q_nope, q_pe, ckv, kpe = tensors
        latent, rotary = slots_view(ckv[:, :, None], ckv[:, :, None]), slots_view(kpe[:, :, None], kpe[:, :, None])
        # One list of slots is for both.
        if latent is None or rotary is None or latent[2:] != rotary[2:] or ckv.shape[:2] != kpe.shape[:2]:
            self.decline()
            return None
        graph = self.runtime.graphs.current()
        step = _step(wrapper, planned)
        if uncapturable(self, wrapper, q_nope) or (graph is not None and not step.fits()):
            self.decline(Reason.CAPTURING)
            return None
        key = (q_nope.shape[1], q_nope.shape[2], q_pe.shape[2], q_nope.dtype)
        site = self._sites.get(key)
        if site is None:
            definition = ops.ALL["mla_paged_decode"].definition(
                num_qo_heads=key[0], head_dim_ckv=key[1], head_dim_kpe=key[2], page_size=1, dtype=NAMES[key[3]]
            )
            site = self._sites[key] = self.runtime.site(self.name, definition, original=Original(self._engine))
        call = _Call(wrapper, step, latent, rotary, planned.sm_scale, given)
        return site.attempt_shown((q_nope.shape[0], step.length_class), _shown, _inputs, call, q_nope, q_pe, graph)

    def _engine(self, call: _Call, *others: Any) -> torch.Tensor:
        given = {name: value for name, value in call.given.items() if name not in _PLACES}
        return self.run(self._original, call.wrapper, **given)  # type: ignore[no-any-return]


def _planned(given: dict[str, Any]) -> _Planned | None:
    """The step of these arguments of ``plan``; None when it is no plain decode."""
    metadata = given.get("metadata")
    lists: list[Any] = [given.get(name) if metadata is None else getattr(metadata, name, None) for name in _LISTS]
    usual = {"output_scale": "none", "scale_mode": "default", "lse_mode": "base2", "output_dtype": given["q_data_type"]}
    asked = {name: given.get(name) for name in ("use_profiler", "skip_softmax", "use_sinks")}
    odd = any(given.get(name) not in (None, "none", value) for name, value in usual.items())
    if (
        any(part is None for part in lists)
        or odd
        or not plain(**asked)
        or given["kv_data_type"] != given["q_data_type"]
    ):
        return None
    # ``plan`` itself has just brought these to the host.
    queries, pages, lengths = (part.cpu() for part in (lists[0], lists[1], lists[3]))
    if not torch.equal(queries, torch.arange(queries.shape[0], dtype=queries.dtype)):
        return None
    return _Planned(pages, lengths, lists[2], int(given["page_size"]), float(given["sm_scale"]))


def _step(wrapper: Any, planned: _Planned) -> PagedStep:
    """The step that was planned, made by the first layer."""
    step: PagedStep | None = wrapper.fib_step
    if step is None:
        indices, buffers = planned.indices.to(wrapper.device), None
        if getattr(wrapper, "_use_cuda_graph", False) and wrapper._kv_indices_buf is not None:
            indices = wrapper._kv_indices_buf
            buffers = Buffers(wrapper._kv_indptr_buf, indices, wrapper._kv_len_arr_buf, True)
        step = PagedStep(None, planned.pages, indices, planned.lengths, planned.page_size, buffers)
        wrapper.fib_step = step
    return step


def _tensors(given: dict[str, Any]) -> list[torch.Tensor] | None:
    """(q_nope, q_pe, ckv_cache, kpe_cache), given one by one, in pairs or joined; None when they cannot be told."""
    parts: list[Any] = [given.get(name) for name in _TENSORS]
    if "query" in given and "kv_cache" in given:
        query, cache = given["query"], given["kv_cache"]
        if isinstance(query, torch.Tensor) or isinstance(cache, torch.Tensor):
            return None
        parts = [*query, *cache]
    if len(parts) != 4 or not all(isinstance(part, torch.Tensor) and part.dim() == 3 for part in parts):
        return None
    dtypes = {part.dtype for part in parts}
    return parts if len(dtypes) == 1 and parts[0].dtype in NAMES else None


def _others(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in (*_TENSORS, *_PLACES, "query", "kv_cache")}


def _shown(call: _Call, q_nope: torch.Tensor, q_pe: torch.Tensor, graph: Any) -> tuple[object, ...]:
    # Of a cache only its size is looked at.
    pool = call.latent.keys.new_empty(1)
    pages = call.latent.keys.shape[0]
    latent, rotary = (pool.expand(pages, 1, q.shape[2]) for q in (q_nope, q_pe))
    return (q_nope, q_pe, latent, rotary, *call.step.shown_in(graph), call.scale)


def _inputs(call: _Call, q_nope: torch.Tensor, q_pe: torch.Tensor, graph: Any) -> tuple[object, ...]:
    lists = call.step.lists_for(call.latent.block, call.latent.token, graph)
    return (q_nope, q_pe, call.latent.keys.squeeze(2), call.rotary.keys.squeeze(2), *lists, call.scale)
