"""vLLM's attention backends on GPUs -> gqa_paged definitions: FlashAttention, Triton, FlashInfer.

The backends differ in how they lay out a cache and in what their metadata holds, so the step is taken from what all
builders are given. Under CUDA graphs of a whole step Python runs at capture only; see ``_attend`` for what that means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.attention import LiveAttention
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.paged import MOST_IN_GRAPH, DeviceStep, Slots, slots_view
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source

from fib_plugin import ops
from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.reason import Reason
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_BACKENDS = "vllm.v1.attention.backends"
_BUILD = ("self", "common_prefix_len", "common_attn_metadata", "fast_build")
_FORWARD = (
    "self",
    "layer",
    "query",
    "key",
    "value",
    "kv_cache",
    "attn_metadata",
    "output",
    "output_scale",
    "output_block_scale",
)


def _targets(module: str, stem: str) -> tuple[Target, ...]:
    """A host uses one backend; others may lack what they import."""
    builder, impl = f"{stem}MetadataBuilder.build", f"{stem}Impl.forward"
    return (
        Target(f"{_BACKENDS}.{module}:{builder}", "build", VERSIONS, params=_BUILD, optional=True),
        Target(f"{_BACKENDS}.{module}:{impl}", "forward", VERSIONS, params=_FORWARD, optional=True),
    )


class Planned(NamedTuple):
    """What a builder was given for one step."""

    common: Any
    #: Decode batches up to this size are captured in CUDA graphs of the whole step; 0: none are.
    captured_up_to: int


class _Call(NamedTuple):
    """What the engine passed."""

    impl: Any
    layer: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    kv_cache: torch.Tensor
    metadata: Any
    output: torch.Tensor


class PagedAttention(Adapter):
    """Wraps a backend's ``forward`` and the ``build`` of its metadata."""

    engine = VLLM
    families = ("gqa_paged_decode", "gqa_paged_prefill")
    #: File with the backend's own op.
    op_text: str

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveAttention(runtime, self.name, self._engine)
        self._forward: Callable[..., Any] | None = None

    def displaced(self, definition: Definition) -> str:
        return displaced_source(self.op_text, definition)

    def build(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def build(builder: Any, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
            metadata = original(builder, common_prefix_len, common_attn_metadata, fast_build)
            if self.live and metadata is not None:
                metadata.fib_planned = Planned(common_attn_metadata, captured_up_to(builder))
            return metadata

        return build

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._forward = original

        def forward(
            impl: Any,
            layer: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            kv_cache: torch.Tensor,
            attn_metadata: Any,
            output: torch.Tensor,
            output_scale: torch.Tensor | None = None,
            output_block_scale: torch.Tensor | None = None,
        ) -> torch.Tensor:
            if self.live and attn_metadata is not None:
                scaled = output_scale is not None or output_block_scale is not None
                if scaled or unsupported(impl, query, kv_cache, attn_metadata):
                    self.decline(Reason.UNSUPPORTED_ARGUMENT)
                elif self._attend(_Call(impl, layer, query, key, value, kv_cache, attn_metadata, output)):
                    return output
            return original(  # type: ignore[no-any-return]
                impl, layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )

        return forward

    def _attend(self, call: _Call) -> bool:
        """Writes the solution's result into ``output``; False when the engine's op must answer.

        In a CUDA graph of the whole step the choice and every address are fixed at capture. Such a decode call has
        the key ANY_LENGTH, from the warm-up that precedes the capture on: one solution for all lengths. Its lists are
        made in the graph (see DeviceStep). Graphs that hold several tokens a request are left to the engine: what
        they are replayed with need not look like what they were captured with.
        """
        planned: Planned = call.metadata.fib_planned
        common = planned.common
        tokens = common.num_actual_tokens
        graph = self.runtime.graphs.current()
        if graph is None and call.query.is_cuda and torch.cuda.is_current_stream_capturing():
            # A capture that nobody told us of cannot be told from the next one.
            self.decline(Reason.CAPTURING)
            return False
        step = _step(call, planned)
        if step is None:
            self.decline(Reason.UNSUPPORTED_ARGUMENT)
            return False
        if graph is not None and (step.qo_indptr is not None or step.most > MOST_IN_GRAPH):
            self.decline(Reason.CAPTURING)
            return False
        q = call.query[:tokens].view(tokens, call.impl.num_heads, call.impl.head_size)
        site = self.calls.site(step, q, call.impl.num_kv_heads)
        always = step.qo_indptr is None and tokens <= planned.captured_up_to
        key = (tokens, ops.ANY_LENGTH if always else step.length_class)
        result = site.attempt_shown(key, self._shown, self._inputs, call, step, q, graph)
        if result is None:
            return False
        call.output[:tokens].view(q.shape).copy_(result[0] if isinstance(result, tuple) else result)
        return True

    def _shown(self, call: _Call, step: DeviceStep, q: torch.Tensor, graph: Any) -> tuple[object, ...]:
        # Records describe the values of a call, not the strides of a pool: dense pages, as many as there are tokens.
        heads, size = call.impl.num_kv_heads, call.impl.head_size
        blocks = halves(call.kv_cache, size)[0].shape[0]  # type: ignore[index]
        pool = call.kv_cache.new_empty(1).expand(blocks * step.block_size, 1, heads, size)
        return _arranged(step, q, pool, pool, step.shown_in(graph), call.impl.scale)

    def _inputs(self, call: _Call, step: DeviceStep, q: torch.Tensor, graph: Any) -> tuple[object, ...]:
        slots = slots_view(*halves(call.kv_cache, call.impl.head_size))  # type: ignore[misc]
        assert isinstance(slots, Slots)
        lists = step.lists_for(slots.block, slots.token, graph)
        return _arranged(step, q, slots.keys, slots.values, lists, call.impl.scale)

    def _engine(self, call: _Call, step: DeviceStep, q: torch.Tensor, graph: Any) -> torch.Tensor:
        assert self._forward is not None
        output = torch.empty_like(call.output)
        self._forward(
            call.impl, call.layer, call.query, call.key, call.value, call.kv_cache, call.metadata, output, None, None
        )
        return output[: q.shape[0]].view(q.shape)


class FlashAttention(PagedAttention):
    """FlashAttention 2, 3 and 4."""

    name = "vllm.flash_attention"
    op_text = "flash_attention"
    targets = _targets("flash_attn", "FlashAttention")


class TritonAttention(PagedAttention):
    """vLLM's own kernel."""

    name = "vllm.triton_attention"
    op_text = "triton_attention"
    targets = _targets("triton_attn", "TritonAttention")


class FlashInferAttention(PagedAttention):
    """FlashInfer's wrappers, prefill and decode of a mixed batch in one call."""

    name = "vllm.flashinfer_attention"
    op_text = "flashinfer_attention"
    targets = _targets("flashinfer", "FlashInfer")


def unsupported(impl: Any, query: torch.Tensor, kv_cache: torch.Tensor, metadata: Any) -> bool:
    """Whether the call has what the definitions lack.

    Window, soft cap, sinks, alibi, chunks, a cache of another dtype, cascades, a share of the context on other ranks,
    masks other than causal, encoders.
    """
    planned = getattr(metadata, "fib_planned", None)
    return bool(
        planned is None
        or query.dtype not in NAMES
        or kv_cache.dtype is not query.dtype
        or getattr(impl, "attn_type", "decoder") != "decoder"
        or impl.sliding_window not in (None, -1, (-1, -1))
        or impl.logits_soft_cap
        or impl.alibi_slopes is not None
        or getattr(impl, "sinks", None) is not None
        or getattr(impl, "chunk_lookback", -1) != -1
        or getattr(impl, "dcp_world_size", 1) > 1
        or getattr(metadata, "use_cascade", False)
        or planned.common.causal is not True
        or any(getattr(metadata, name, None) is not None for name in _MASKS)
    )


#: Fields of some versions' metadata that are set when a mask is more than causal.
_MASKS = ("mm_prefix_range", "mm_prefix_query_range_tensor", "rswa_prefix_lens")


def halves(kv_cache: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(keys, values), both [blocks, block_size, kv_heads, head_size], of a cache as the engine holds it.

    Up to 0.24 it is [2, blocks, block_size, kv_heads, head_size] or has the 2 in second place, from 0.26 on
    [blocks, kv_heads, block_size, 2 * head_size]. None for what is neither, or cannot be told.
    """
    shape = kv_cache.shape
    if len(shape) == 4 and shape[3] == 2 * head_size:
        tokens_first = kv_cache.transpose(1, 2)
        return tokens_first[..., :head_size], tokens_first[..., head_size:]
    if len(shape) == 5 and shape[4] == head_size and (shape[0] == 2) != (shape[1] == 2):
        keys, values = kv_cache.unbind(0 if shape[0] == 2 else 1)
        return keys, values
    return None


def _arranged(
    step: DeviceStep, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lists: tuple[Any, Any], scale: float
) -> tuple[object, ...]:
    """The definition's inputs in order."""
    if step.qo_indptr is None:
        return (q, keys, values, *lists, scale)
    return (q, keys, values, step.qo_indptr, *lists, scale)


def _step(call: _Call, planned: Planned) -> DeviceStep | None:
    """The step of this metadata, made by the first layer that asks; None when it cannot be told without waiting."""
    metadata = call.metadata
    table = getattr(metadata, "block_table", None)
    table = planned.common.block_table_tensor if table is None else table
    known: tuple[torch.Tensor, DeviceStep] | None = getattr(metadata, "fib_step", None)
    # Metadata is copied for groups of layers that differ in nothing but the block table.
    if known is not None and known[0] is table:
        return known[1]
    common = planned.common
    requests, tokens = common.num_reqs, common.num_actual_tokens
    lengths = getattr(common, "seq_lens_cpu_upper_bound", None)
    if lengths is None:
        lengths = getattr(common, "_seq_lens_cpu", None)
    both = halves(call.kv_cache, call.impl.head_size)
    if lengths is None or both is None or slots_view(*both) is None or requests == 0:
        return None
    decode = common.max_query_len == 1 and tokens == requests
    qo_indptr = None if decode else common.query_start_loc[: requests + 1].to(torch.int32)
    step = DeviceStep(qo_indptr, table, common.seq_lens, lengths[:requests], both[0].shape[1])
    metadata.fib_step = (table, step)
    return step


def captured_up_to(builder: Any) -> int:
    """The largest decode batch that this engine captures in CUDA graphs of the whole step; 0 without them."""
    config = getattr(getattr(builder, "vllm_config", None), "compilation_config", None)
    mode = getattr(config, "cudagraph_mode", None)
    if config is None or mode is None or not mode.has_full_cudagraphs():
        return 0
    return int(config.max_cudagraph_capture_size or 0)
