"""vLLM RotaryEmbedding -> rope definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.rope import LiveRope
from fib_plugin.adapters.vllm.engine import VERSIONS, VLLM, displaced_source
from torch.compiler import is_dynamo_compiling

from fib_plugin.adapter import Adapter, Target
from fib_plugin.dispatch.opaque import observer, opaque
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_ROPE = "vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding"
_PARAMS = ("self", "positions", "query", "key")


class Rope(Adapter):
    """Wraps the base class's forward methods: native is functional and traced, cpu and cuda write in place."""

    name = "vllm.rope"
    engine = VLLM
    families = ("rope",)
    targets = (
        Target(f"{_ROPE}.forward_native", "native", VERSIONS, params=_PARAMS),
        Target(f"{_ROPE}.forward_cpu", "in_place", VERSIONS, params=_PARAMS),
        Target(f"{_ROPE}.forward_cuda", "in_place", VERSIONS, params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveRope(runtime, self.name, _rotary_embedding)
        self.tracing = runtime.tracing
        #: Head sizes with a proven solution: only these leave a compiled graph.
        self.heads = frozenset(c["head_dim"] for c in runtime.candidates("rope"))
        arguments = "Tensor positions, Tensor query, Tensor key, Tensor cache, int head_size, bool is_neox"
        self.op = opaque(f"rope({arguments}) -> (Tensor, Tensor)", self._body, _fake)
        self.seen = None
        #: Whether calls that stay in a graph are seen with their values, for which a graph must keep these in memory.
        self.values = runtime.wants_values("rope")
        #: One element of each kind, to be stretched to the shape of a query or key.
        self._elements: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}
        if runtime.tracing and self.values:
            self.seen = observer(
                f"rope_seen({arguments.replace('Tensor query', 'Tensor(a!) query')}) -> ()", self._look
            )
        elif runtime.tracing:
            self.seen = observer(
                "rope_tokens(Tensor(a!) positions, Tensor cache, SymInt query_width, SymInt key_width, "
                "ScalarType dtype, int head_size, bool is_neox) -> ()",
                self._look_tokens,
            )

    def graph_facts(self) -> str:
        return f"{self.op.schema} {sorted(self.heads)} {self.seen and self.seen.schema}"

    def displaced(self, definition: Definition) -> str:
        return displaced_source("rope", definition)

    def native(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward_native(
            rope: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
        ) -> Any:
            out = self._substitute(rope, positions, query, key)
            return original(rope, positions, query, key) if out is None else out

        return forward_native

    def in_place(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(rope: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
            out = self._substitute(rope, positions, query, key)
            if out is None:
                return original(rope, positions, query, key)
            # Callers of the in-place op may read the tensors they passed.
            query.copy_(out[0])
            key.copy_(out[1])  # type: ignore[union-attr]
            return query, key

        return forward

    def _substitute(self, rope: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None) -> Any:
        """(query, key) rotated by a solution, or None."""
        compiling = is_dynamo_compiling()
        tracing = self.tracing
        wins = (compiling or not tracing) and rope.head_size in self.heads
        if not self.live or not (wins or tracing):
            return None
        if key is None or positions.dim() != 1 or query.dtype not in NAMES or getattr(rope, "use_flashinfer", False):
            if not compiling:
                self.decline()
            return None
        if compiling and not wins and not self.values:
            if self.seen is not None:
                # The cache as it is: a graph would convert it for the observer alone, on every call.
                widths = query.numel() // query.shape[0], key.numel() // key.shape[0]
                self.seen.call(positions, rope.cos_sin_cache, *widths, query.dtype, rope.head_size, rope.is_neox_style)
            return None
        # As the next method begins, without what asking a module for a buffer takes.
        cache = None if compiling else rope._buffers.get("cos_sin_cache")
        if cache is None or cache.dtype is not query.dtype or cache.device != query.device:
            cache = rope._match_cos_sin_cache_dtype(query)
        if not compiling:
            return self.calls.attempt(positions, query, key, cache, rope.head_size, rope.is_neox_style)
        if wins:
            return self.op.call(positions, query, key, cache, rope.head_size, rope.is_neox_style)
        if self.seen is not None:
            self.seen.call(positions, query, key, cache, rope.head_size, rope.is_neox_style)
        return None

    def _look_tokens(
        self,
        positions: torch.Tensor,
        cache: torch.Tensor,
        query_width: int,
        key_width: int,
        dtype: torch.dtype,
        head_size: int,
        is_neox: bool,
    ) -> None:
        if not self.live:
            return
        kind = dtype, positions.device
        element = self._elements.get(kind)
        if element is None:
            element = self._elements[kind] = torch.empty(1, dtype=dtype, device=positions.device)
        tokens = positions.numel()
        query, key = element.expand(tokens, query_width), element.expand(tokens, key_width)
        self.calls.attempt(positions, query, key, cache, head_size, is_neox)

    def _look(self, *call: Any) -> None:
        if self.live:
            self.calls.attempt(*call)

    def _body(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *others: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.calls.attempt(positions, query, key, *others) if self.live else None
        if out is None:
            dense = torch.contiguous_format
            out = query.clone(memory_format=dense), key.clone(memory_format=dense)
            _rotary_embedding(positions, *out, *others)
        return out


def _rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cache: torch.Tensor,
    head_size: int,
    is_neox: bool,
) -> None:
    """The engine's op, in place."""
    from vllm import _custom_ops

    _custom_ops.rotary_embedding(positions, query, key, head_size, cache, is_neox)


def _fake(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *others: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape)
