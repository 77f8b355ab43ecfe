"""SGLang RotaryEmbedding -> rope definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.rope import LiveRope
from fib_plugin.adapters.sglang.engine import SGLANG, VERSIONS, displaced_source

from fib_plugin.adapter import Adapter, Target
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

_ROPE = "sglang.srt.layers.rotary_embedding.base:RotaryEmbedding"
_PARAMS = ("self", "positions", "query", "key", "offsets", "fused_set_kv_buffer_arg")


class Rope(Adapter):
    """Wraps the base class's forward methods. On CUDA the engine's op works in place; callers use what is returned."""

    name = "sglang.rope"
    engine = SGLANG
    families = ("rope",)
    targets = (
        Target(f"{_ROPE}.forward_native", "native", VERSIONS, params=_PARAMS),
        Target(f"{_ROPE}.forward_cuda", "cuda", VERSIONS, params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.calls = LiveRope(runtime, self.name, self._engine, in_place=False)
        self.heads = frozenset(c["head_dim"] for c in runtime.candidates("rope"))
        #: By a cache's address: the engine's method and the module that it needs.
        self._owners: dict[int, tuple[Callable[..., Any], Any]] = {}

    def displaced(self, definition: Definition) -> str:
        return displaced_source("rope", definition)

    def native(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, False)

    def cuda(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(original, True)

    def _around(self, original: Callable[..., Any], cuda: bool) -> Callable[..., Any]:
        def forward(
            rope: Any,
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor,
            offsets: torch.Tensor | None = None,
            fused_set_kv_buffer_arg: Any = None,
        ) -> Any:
            out = None
            # On CUDA one method may fall back to the other, which must not count the call again.
            if self.live and query.is_cuda is cuda and not torch.compiler.is_compiling():
                if offsets is None and fused_set_kv_buffer_arg is None:
                    out = self._substitute(original, rope, positions, query, key)
                else:
                    self.decline()
            return original(rope, positions, query, key, offsets, fused_set_kv_buffer_arg) if out is None else out

        return forward

    def _substitute(
        self, original: Callable[..., Any], rope: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> Any:
        """(query, key) rotated by a solution, or None."""
        if not (self.runtime.tracing or rope.head_size in self.heads):
            return None
        cache = rope.cos_sin_cache
        if positions.dim() != 1 or query.dtype not in NAMES or cache.device != query.device or not positions.numel():
            self.decline()
            return None
        if cache.data_ptr() not in self._owners:
            self._owners[cache.data_ptr()] = (original, rope)
        return self.calls.attempt(positions, query, key, cache, rope.head_size, rope.is_neox_style)

    def _engine(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, cache: torch.Tensor, *_: Any
    ) -> Any:
        original, rope = self._owners[cache.data_ptr()]
        return original(rope, positions, query, key)
