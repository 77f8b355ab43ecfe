"""flashinfer.rope -> rope definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.flashinfer.library import VERSIONS, LibraryAdapter
from fib_plugin.adapters.live.dtype import NAMES
from fib_plugin.adapters.live.rope import LiveRope

from fib_plugin.adapter import Target
from fib_plugin.runtime import Runtime

_PARAMS = ("positions", "query", "key", "head_size", "cos_sin_cache", "is_neox")


class Rope(LibraryAdapter):
    """Wraps rotation by a cos/sin cache, in place and not."""

    name = "flashinfer.rope"
    families = ("rope",)
    op_text = "rope"
    targets = (
        Target("flashinfer.rope:apply_rope_with_cos_sin_cache", "rotated", VERSIONS, params=_PARAMS),
        Target("flashinfer.rope:apply_rope_with_cos_sin_cache_inplace", "in_place", VERSIONS, params=_PARAMS),
    )

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._in_place: Callable[..., Any]
        self.calls = LiveRope(runtime, self.name, self._engine)

    def rotated(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply_rope_with_cos_sin_cache(
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor,
            head_size: int,
            cos_sin_cache: torch.Tensor,
            is_neox: bool = True,
        ) -> Any:
            out = self._substitute(positions, query, key, head_size, cos_sin_cache, is_neox)
            if out is not None:
                return out
            return self.run(original, positions, query, key, head_size, cos_sin_cache, is_neox)

        return apply_rope_with_cos_sin_cache

    def in_place(self, original: Callable[..., Any]) -> Callable[..., Any]:
        self._in_place = original

        def apply_rope_with_cos_sin_cache_inplace(
            positions: torch.Tensor,
            query: torch.Tensor,
            key: torch.Tensor,
            head_size: int,
            cos_sin_cache: torch.Tensor,
            is_neox: bool = True,
        ) -> None:
            out = self._substitute(positions, query, key, head_size, cos_sin_cache, is_neox)
            if out is None:
                self.run(original, positions, query, key, head_size, cos_sin_cache, is_neox)
            else:
                query.copy_(out[0]), key.copy_(out[1])

        return apply_rope_with_cos_sin_cache_inplace

    def _substitute(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, head_size: int, cache: Any, is_neox: bool
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        if not self.ours():
            return None
        if query.dtype not in NAMES or key.dtype is not query.dtype or positions.dim() != 1:
            self.decline()
            return None
        return self.run(self.calls.attempt, positions, query, key, cache, head_size, is_neox)  # type: ignore[no-any-return]

    def _engine(self, positions: Any, query: Any, key: Any, cache: Any, head_size: int, is_neox: bool) -> None:
        self.run(self._in_place, positions, query, key, head_size, cache, is_neox)
