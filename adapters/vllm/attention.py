"""vLLM's CPU attention backend -> gqa_paged_decode and gqa_paged_prefill definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.attention import LiveAttention, Step, table_step
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.vllm.cpu_cache import CpuCache, halves
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.reason import Reason
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_FORWARD_PARAMS = (
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


class CpuAttention(Adapter):
    """Wraps the backend's ``forward``, which Python runs on every step in eager and compiled models alike.

    Before 0.23 nobody but the engine's forward writes the new keys and values into the cache: a solution that answers
    in its place must find them there, too.
    """

    name = "vllm.attention"
    engine = VLLM
    families = ("gqa_paged_decode", "gqa_paged_prefill")
    targets = (
        Target(
            "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl.forward",
            "forward",
            VERSIONS,
            params=_FORWARD_PARAMS,
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveAttention(runtime, self.name, self._engine)
        self.cache = CpuCache()
        self._forward: Callable[..., Any] | None = None

    def displaced(self, definition: Definition) -> str:
        return displaced_source("gqa_paged", definition)

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
                if scaled or query.dtype not in NAMES or _unsupported(impl, attn_metadata):
                    self.decline(Reason.UNSUPPORTED_ARGUMENT)
                elif self._attend(impl, layer, query, key, value, kv_cache, attn_metadata, output):
                    return output
            return original(  # type: ignore[no-any-return]
                impl, layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )

        return forward

    def _attend(
        self,
        impl: Any,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        metadata: Any,
        output: torch.Tensor,
    ) -> bool:
        """Writes the solution's result into ``output``; False when the engine's op must answer."""
        shape = kv_cache.shape
        step = getattr(metadata, "fib_step", None)
        if step is None:
            step = metadata.fib_step = _step(metadata, shape[-2])
        # No view of the queries is made for a call that is only counted.
        site = self.calls.site_of(step, impl.num_heads, shape[-3], impl.head_size, query.dtype)
        size = (metadata.num_actual_tokens, step.length_class)
        call = (impl, layer, query, key, value, kv_cache, metadata, output)
        result = site.attempt_shown(size, self._shown, self._inputs, step, call)
        if result is None:
            return False
        attended = result[0] if isinstance(result, tuple) else result
        output[: metadata.num_actual_tokens].view(attended.shape).copy_(attended)
        return True

    def _shown(self, step: Step, passed: tuple[Any, ...]) -> tuple[object, ...]:
        # The pool's data plays no part in a choice or a record: only its shape does.
        call = _Call(*passed)
        blocks, kv_heads, block_size = call.kv_cache.shape[-4:-1]
        pool = call.kv_cache.new_empty(1).expand(blocks * block_size, 1, kv_heads, call.impl.head_size)
        return self.calls.shown(step, _queries(call), pool, pool, call.impl.scale)

    def _inputs(self, step: Step, passed: tuple[Any, ...]) -> tuple[object, ...]:
        """The definition's inputs: the engine's blocks unpacked, since solutions read token-major keys and values."""
        call = _Call(*passed)
        q = _queries(call)
        head_size = call.impl.head_size
        if call.kv_cache.dim() == 5:
            _write(call)
        isa = _isa(call)
        keys, values, indices = self.cache.unpack(isa, call.kv_cache, step.lists()[1], head_size, q.dtype)
        return self.calls.inputs(step, q, keys, values, call.impl.scale, indices)

    def _engine(self, step: Step, passed: tuple[Any, ...]) -> torch.Tensor:
        assert self._forward is not None
        call = _Call(*passed)
        output = torch.empty_like(call.output)
        self._forward(
            call.impl, call.layer, call.query, call.key, call.value, call.kv_cache, call.metadata, output, None, None
        )
        return output[: call.metadata.num_actual_tokens].view(_queries(call).shape)


def _queries(call: _Call) -> torch.Tensor:
    """[tokens, heads, head_size], without padding."""
    return call.query[: call.metadata.num_actual_tokens].view(-1, call.impl.num_heads, call.impl.head_size)


def _unsupported(impl: Any, metadata: Any) -> bool:
    """Whether the call has what the definitions lack: window, soft cap, sinks, alibi, fp8, non-causal, encoder."""
    return bool(
        impl.attn_type != "decoder"
        or impl.sliding_window not in (-1, (-1, -1))
        or impl.logits_soft_cap
        or impl.alibi_slopes is not None
        or impl.sinks is not None
        or getattr(impl, "is_fp8_kv_cache", False)
        or metadata.causal is not True
        or getattr(metadata, "dynamic_causal", None) is not None
        or getattr(metadata, "use_sdpa_prefill", False)
    )


def _isa(call: _Call) -> str:
    """The instruction set that the cache's layout is for: the layer's (0.30), the backend's (0.23), the step's."""
    isa: str = next(holder.isa for holder in (call.layer, call.impl, call.metadata) if hasattr(holder, "isa"))
    return isa


def _write(call: _Call) -> None:
    """The new keys and values into the cache, as the engine's forward begins; doing it twice changes nothing."""
    from vllm import _custom_ops

    if call.impl.kv_sharing_target_layer_name is None and call.key is not None and call.value is not None:
        _custom_ops.cpu_attn_reshape_and_cache(
            call.key,
            call.value,
            *halves(call.kv_cache),
            call.metadata.slot_mapping,
            _isa(call),
            k_scale=call.layer._k_scale_float,
            v_scale=call.layer._v_scale_float,
            kv_cache_dtype=call.impl.kv_cache_dtype,
        )


def _step(metadata: Any, block_size: int) -> Step:
    requests = metadata.seq_lens.shape[0]
    decode = metadata.num_actual_tokens == requests and metadata.max_query_len == 1
    qo_indptr = None if decode else metadata.query_start_loc[: requests + 1].to(torch.int32)
    return table_step(qo_indptr, metadata.block_table, metadata.seq_lens, block_size)
