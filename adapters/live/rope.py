"""HOT. Rotary embedding calls: one site for each cos/sin cache, keyed by the number of tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class LiveRope:
    """Rotary calls of one adapter. Definitions hold the cache in float32, so each cache is widened once.

    Args:
        engine: the engine's op on (positions, q, k, its own cache, head_size, is_neox), for probation; in place, or
            it returns the rotated two.
        in_place: whether the adapter writes a solution's result to where the caller's tensors are.
    """

    def __init__(
        self,
        runtime: Runtime,
        adapter: str,
        engine: Callable[..., Any] | None = None,
        in_place: bool = True,
    ) -> None:
        self._runtime = runtime
        self._engine = engine
        self._finish = _copied_back if in_place else None
        #: Address of a widened cache -> the engine's own.
        self._narrow: dict[int, torch.Tensor] = {}
        self._adapter = adapter
        self._sites: dict[tuple[int, int, bool, torch.dtype], tuple[Site, torch.Tensor]] = {}
        self._alive: list[torch.Tensor] = []

    def attempt(
        self,
        positions: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        cache: torch.Tensor,
        head_size: int,
        is_neox: bool,
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Rotated (q, k) in the shapes they came in, or None when the engine's op must answer."""
        known = self._sites.get((cache.data_ptr(), head_size, is_neox, q.dtype))
        site, wide = known or self._resolve(cache, head_size, is_neox, q.dtype)
        result = site.attempt_made(positions.numel(), _inputs, q, k, wide, positions, head_size)
        return None if result is None else (result[0].reshape(q.shape), result[1].reshape(k.shape))

    def _resolve(
        self, cache: torch.Tensor, head_size: int, is_neox: bool, dtype: torch.dtype
    ) -> tuple[Site, torch.Tensor]:
        definition = ops.ALL["rope"].definition(
            head_dim=head_size, rotary_dim=cache.shape[-1], is_neox=is_neox, dtype=NAMES[dtype]
        )
        original = (
            None if self._engine is None else Original(functools.partial(self._rotate, is_neox), _copied, self._finish)
        )
        wide = cache.detach().to(torch.float32)
        self._narrow[wide.data_ptr()] = cache.detach()
        known = (self._runtime.site(self._adapter, definition, original=original), wide)
        self._alive.append(cache.detach())
        self._sites[cache.data_ptr(), head_size, is_neox, dtype] = known
        return known

    def _rotate(
        self,
        is_neox: bool,
        q: torch.Tensor,
        k: torch.Tensor,
        wide: torch.Tensor,
        positions: torch.Tensor,
        head_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The engine's op, in the form of the definition's outputs."""
        assert self._engine is not None
        q, k = self._engine(positions, q, k, self._narrow[wide.data_ptr()], head_size, is_neox) or (q, k)
        tokens = positions.numel()
        return q.view(tokens, -1, head_size), k.view(tokens, -1, head_size)


def _inputs(
    q: torch.Tensor, k: torch.Tensor, wide: torch.Tensor, positions: torch.Tensor, head_size: int
) -> tuple[torch.Tensor, ...]:
    tokens = positions.numel()
    return q.view(tokens, -1, head_size), k.view(tokens, -1, head_size), wide, positions.reshape(-1)


def _copied(q: torch.Tensor, k: torch.Tensor, *others: Any) -> tuple[Any, ...]:
    return (q.contiguous().clone(), k.contiguous().clone(), *others)


def _copied_back(result: tuple[torch.Tensor, torch.Tensor], given: tuple[Any, ...]) -> None:
    # Adapters of in-place ops write a result to where the caller looks for it.
    for rotated in result:
        torch.empty_like(rotated).copy_(rotated)
