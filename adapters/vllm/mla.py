"""vLLM's MLA backends, decode -> mla_paged_decode definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.mla import LiveMla
from fib_plugin.adapters.live.paged import MOST_IN_GRAPH, DeviceStep
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from fib_plugin.adapters.vllm.paged_attention import Planned, captured_up_to

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.reason import Reason
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_BACKENDS = "vllm.v1.attention.backends.mla"
_PARAMS = ("self", "q", "kv_c_and_k_pe_cache", "attn_metadata", "layer")
_IMPLS = (
    "flashattn_mla:FlashAttnMLAImpl",
    "flashmla:FlashMLAImpl",
    "flashinfer_mla:FlashInferMLAImpl",
    "cutlass_mla:CutlassMLAImpl",
    "triton_mla:TritonMLAImpl",
)


class _Call(NamedTuple):
    """What the engine passed, and to whom."""

    original: Callable[..., Any]
    impl: Any
    q: Any
    cache: torch.Tensor
    metadata: Any
    layer: Any


class Mla(Adapter):
    """Wraps ``forward_mqa`` of the dense backends, which gets the decode part of a batch, and their metadata's build.

    Graphs are treated as in paged_attention.py: one choice for all lengths, lists made inside.
    """

    name = "vllm.mla"
    engine = VLLM
    families = ("mla_paged_decode",)
    targets = (
        Target(
            "vllm.model_executor.layers.attention.mla_attention:MLACommonMetadataBuilder.build",
            "build",
            VERSIONS,
            params=("self", "common_prefix_len", "common_attn_metadata", "fast_build"),
        ),
        # A host uses one backend; others may lack what they import.
        *(
            Target(f"{_BACKENDS}.{impl}.forward_mqa", "forward_mqa", VERSIONS, params=_PARAMS, optional=True)
            for impl in _IMPLS
        ),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveMla(runtime, self.name, self._engine)

    def displaced(self, definition: Definition) -> str:
        return displaced_source("mla", definition)

    def build(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def build(builder: Any, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
            metadata = original(builder, common_prefix_len, common_attn_metadata, fast_build)
            if self.live and metadata is not None:
                metadata.fib_planned = Planned(common_attn_metadata, captured_up_to(builder))
            return metadata

        return build

    def forward_mqa(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward_mqa(
            impl: Any, q: Any, kv_c_and_k_pe_cache: torch.Tensor, attn_metadata: Any, layer: Any
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if self.live:
                out = self._attend(_Call(original, impl, q, kv_c_and_k_pe_cache, attn_metadata, layer))
                if out is not None:
                    return out, None
            return original(impl, q, kv_c_and_k_pe_cache, attn_metadata, layer)  # type: ignore[no-any-return]

        return forward_mqa

    def _attend(self, call: _Call) -> torch.Tensor | None:
        impl = call.impl
        latent = impl.kv_lora_rank
        q_nope, q_pe = call.q if isinstance(call.q, tuple) else (call.q[..., :latent], call.q[..., latent:])
        planned: Planned | None = getattr(call.metadata, "fib_planned", None)
        step = None if planned is None or unsupported(call, q_nope) else _step(call, planned, q_nope.shape[0])
        if planned is None or step is None:
            self.decline(Reason.UNSUPPORTED_ARGUMENT)
            return None
        graph = self.runtime.graphs.current()
        capturing = q_nope.is_cuda and torch.cuda.is_current_stream_capturing()
        if (capturing and graph is None) or (graph is not None and step.most > MOST_IN_GRAPH):
            self.decline(Reason.CAPTURING)
            return None
        always = q_nope.shape[0] <= planned.captured_up_to
        return self.calls.attempt(call, step, always, q_nope, q_pe, call.cache, float(impl.scale), graph)

    def _engine(self, call: _Call) -> torch.Tensor:
        return call.original(call.impl, call.q, call.cache, call.metadata, call.layer)[0]  # type: ignore[no-any-return]


def unsupported(call: _Call, q: torch.Tensor) -> bool:
    """Whether the call has what the definition lacks.

    A cache of another dtype, several tokens a request, a share of the context on other ranks, a mask, window or cap.
    """
    impl, metadata = call.impl, call.metadata
    return bool(
        q.dtype not in NAMES
        or call.cache.dtype is not q.dtype
        or call.cache.dim() != 3
        or metadata.decode is None
        or metadata.num_decode_tokens != metadata.num_decodes
        or q.shape[0] != metadata.num_decodes
        or getattr(impl, "dcp_world_size", 1) > 1
        or getattr(impl, "need_to_return_lse_for_decode", False)
        or getattr(impl, "alibi_slopes", None) is not None
        or getattr(impl, "sliding_window", None) not in (None, -1, (-1, -1))
        or getattr(impl, "logits_soft_cap", None)
        or getattr(impl, "sinks", None) is not None
    )


def _step(call: _Call, planned: Planned, requests: int) -> DeviceStep | None:
    """The decode part's step, made by the first layer that asks: its requests come first in the batch."""
    step: DeviceStep | None = getattr(call.metadata, "fib_step", None)
    if step is None:
        common, decode = planned.common, call.metadata.decode
        lengths = getattr(common, "seq_lens_cpu_upper_bound", None)
        if lengths is None:
            lengths = getattr(common, "_seq_lens_cpu", None)
        if lengths is None or requests == 0:
            return None
        size = call.cache.shape[1]
        step = DeviceStep(None, decode.block_table, decode.seq_lens, lengths[:requests], size)
        call.metadata.fib_step = step
    return step
