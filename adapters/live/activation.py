"""HOT. Gated activation calls: one site for each width and dtype, keyed by the number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fib_plugin.adapters.live.dtype import NAMES

from fib_plugin import ops
from fib_plugin.dispatch.site import Original, Site
from fib_plugin.runtime import Runtime


class LiveActivation:
    """silu_and_mul calls of one adapter.

    Args:
        engine: the engine's op on x [M, 2d], for probation.
    """

    def __init__(self, runtime: Runtime, adapter: str, engine: Callable[..., torch.Tensor] | None = None) -> None:
        self._runtime = runtime
        self._original = None if engine is None else Original(engine)
        self._adapter = adapter
        self._sites: dict[tuple[int, torch.dtype], Site] = {}

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor | None:
        """[..., d] from x [..., 2d], or None when the engine's op must answer."""
        shape = x.shape
        site = self._sites.get((shape[-1], x.dtype)) or self._resolve(x)
        if len(shape) == 2:
            result: torch.Tensor | None = site.attempt(shape[0], (x,))
            return result
        rows = x.reshape(-1, x.shape[-1])
        result = site.attempt(rows.shape[0], (rows,))
        return None if result is None else result.reshape(*x.shape[:-1], x.shape[-1] // 2)

    def _resolve(self, x: torch.Tensor) -> Site:
        definition = ops.ALL["silu_and_mul"].definition(d=x.shape[-1] // 2, dtype=NAMES[x.dtype])
        site = self._runtime.site(self._adapter, definition, original=self._original)
        self._sites[x.shape[-1], x.dtype] = site
        return site
